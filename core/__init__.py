"""The methods. Knows neither ComfyUI nor the trainers."""
