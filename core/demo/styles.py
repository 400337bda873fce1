"""From a finished canvas to the picture in one of three styles, its masks and its depth map."""

from __future__ import annotations

from .canvas import BODY, CLOTHES, PROP, SUPERSAMPLE, Canvas

STYLES = ("photo", "painting", "drawing")
LIGHT = (-0.42, -0.6, 0.68)  # towards the viewer's upper left


def render(canvas: Canvas, style: str, seed: int, gloom: float = 0.0):
    """Return a float32 array (size, size, 3) in 0..1; `gloom` > 0 dims the light as at night."""
    import numpy as np

    page = _Page(canvas, np.random.default_rng(seed))
    picture = {"photo": _photo, "painting": _painting, "drawing": _drawing}[style](page, gloom)
    return np.clip(_halved(picture), 0.0, 1.0).astype(np.float32)


def role_mask(canvas: Canvas, *roles: int):
    """The pixels of shapes with one of `roles`, antialiased: float32 (size, size) in 0..1."""
    import numpy as np

    table = [255 if shape.role in roles else 0 for shape in canvas.shapes]
    mask = canvas.numbers.point(table + [0] * (256 - len(table))).reduce(SUPERSAMPLE)
    return np.asarray(mask, dtype=np.float32) / 255.0


def depth_map(canvas: Canvas):
    """Depth, float32 (size, size): 1 at the viewer, 0 at the horizon; round parts bulge."""
    import numpy as np

    page = _Page(canvas, None)
    table = np.array([(s.far, s.near - s.far, 0.06 * s.roundness * (s.role != 0)) for s in canvas.shapes], np.float32)
    far, span, bulge = np.moveaxis(table[page.numbers], -1, 0)
    depth = far + span * (page.v * 0.5 + 0.5) + bulge * (page.facing() - 0.5)
    return _blur(np.clip(_halved(depth), 0.0, 1.0), 0.7 * page.scale)


class _Page:
    """The canvas as arrays at twice the final size."""

    def __init__(self, canvas: Canvas, rng):
        import numpy as np
        from PIL import Image

        side = 2 * canvas.size
        self.canvas, self.rng, self.side = canvas, rng, side
        self.scale = canvas.size / 128
        self.numbers = np.asarray(canvas.numbers.resize((side, side), Image.Resampling.NEAREST))
        axis = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.x, self.y = axis[None, :], axis[:, None]
        boxes = np.array([shape.box for shape in canvas.shapes], np.float32)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        half = np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, 1e-3)
        # u, v: where a pixel lies in the box of its shape, -1..1
        self.u = (self.x - centre[:, 0][self.numbers]) / half[:, 0][self.numbers]
        self.v = (self.y - centre[:, 1][self.numbers]) / half[:, 1][self.numbers]

    def colours(self):
        import numpy as np

        return np.asarray(self.canvas.colours.reduce(2), dtype=np.float32) / 255.0

    def table(self, values):
        """One value per shape, spread over the pixels."""
        import numpy as np

        return np.array(values, np.float32)[self.numbers]

    def facing(self):
        """How much a pixel of a ball-like shape faces the viewer, 0..1."""
        import numpy as np

        return np.sqrt(np.clip(1.0 - self.u * self.u - self.v * self.v, 0.0, 1.0))

    def light(self):
        """Light on every pixel, about -0.5..0.5; 0 for flat shapes."""
        facing = LIGHT[0] * self.u + LIGHT[1] * self.v + LIGHT[2] * self.facing()
        return (facing.clip(-0.45, 1.0) - 0.42) * self.table([s.roundness for s in self.canvas.shapes])

    def foreground(self):
        """1 on subject, clothes and accessory, 0 behind them."""
        return self.table([s.role in (BODY, CLOTHES, PROP) for s in self.canvas.shapes])

    def shadow(self, softness: float = 1.0):
        """The contact shadow on the background, 0..1."""
        import numpy as np

        total = np.zeros((self.side, self.side), np.float32)
        for cx, cy, rx, ry in self.canvas.shadows:
            total += np.exp(-((((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2) ** 1.5) / softness)
        return np.clip(total, 0.0, 1.0) * (1.0 - self.foreground())

    def edges(self, weight: int = 1):
        """1 along the borders between inked shapes."""
        import numpy as np

        # 0: shapes that have no line of their own (eyes, noses)
        inked = [k + 1 if shape.ink or k == 0 else 0 for k, shape in enumerate(self.canvas.shapes)]
        numbers = np.array(inked, np.int16)[self.numbers]
        edges = np.zeros((self.side, self.side), bool)
        for step in range(1, weight + 1):
            across = _border(numbers[:, step:], numbers[:, :-step])
            down = _border(numbers[step:], numbers[:-step])
            edges[:, (step + 1) // 2 : self.side - step // 2] |= across
            edges[(step + 1) // 2 : self.side - step // 2] |= down
        return edges.astype(np.float32)

    def noise(self, columns: int, rows: int):
        """Smooth noise with `columns` x `rows` cells, zero mean, about -1..1."""
        import numpy as np
        from PIL import Image

        cells = self.rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
        return np.asarray(Image.fromarray(cells).resize((self.side, self.side), Image.Resampling.BICUBIC))


def _border(a, b):
    return (a != b) & (a > 0) & (b > 0)


def _photo(page: _Page, gloom: float):
    import numpy as np
    from PIL import Image, ImageFilter

    front = page.foreground()[..., None]
    blurred = page.canvas.behind.filter(ImageFilter.GaussianBlur(1.4 * page.scale))
    blurred = blurred.resize((page.side, page.side), Image.Resampling.BILINEAR)
    colours = page.colours() * front + np.asarray(blurred, np.float32) / 255.0 * (1.0 - front)
    light = page.light()[..., None]
    picture = colours * (1.0 + 0.95 * np.minimum(light, 0.0) + 0.25 * np.maximum(light, 0.0))
    picture += np.maximum(light - 0.12, 0.0) * 0.5 * (1.0 - 0.5 * colours)
    picture *= 1.0 - 0.5 * page.shadow()[..., None]
    vignette = (((page.x - 0.5) ** 2 + (page.y - 0.5) ** 2) * 0.48)[..., None]
    return _dim(picture * (1.05 - vignette), gloom * (1.0 - 0.5 * front))


def _painting(page: _Page, gloom: float):
    import numpy as np

    side = page.side
    # the brush pulls every outline a little out of place, the subject's less
    reach = (1.0 - 0.35 * page.foreground()) * page.scale
    pull_x = (page.noise(22, 22) * 2.6 + page.noise(7, 7) * 2.0) * reach
    pull_y = (page.noise(22, 22) * 2.6 + page.noise(7, 7) * 2.0) * reach
    at_x = np.clip(np.arange(side)[None, :] + pull_x, 0, side - 1).astype(np.int32)
    at_y = np.clip(np.arange(side)[:, None] + pull_y, 0, side - 1).astype(np.int32)
    light = np.round(page.light() * 5.0) / 5.0  # a few flat tones, as a brush leaves them
    picture = page.colours() * (1.0 + 0.55 * light * (light < 0) + 0.22 * light * (light > 0))[..., None]
    picture *= 1.0 - 0.4 * page.shadow(1.3)[..., None]
    picture = _dim(picture, gloom * (1.0 - 0.5 * page.foreground()[..., None]))[at_y, at_x]
    strokes = 0.075 * page.noise(14, 72) + 0.05 * page.noise(64, 18)
    wash = 0.06 * page.noise(6, 6)
    picture = picture * (1.0 + strokes + wash)[..., None]
    pigment = page.edges(2)[at_y, at_x]  # colour gathers where two washes meet
    picture *= 1.0 - 0.16 * pigment[..., None]
    picture = 0.08 + 0.92 * picture
    return _paper_border(page, picture)


def _paper_border(page: _Page, picture):
    """Leave the rim of the paper unpainted, its edge as uneven as a brush makes it."""
    import numpy as np

    rim = np.minimum(np.minimum(page.x, 1.0 - page.x), np.minimum(page.y, 1.0 - page.y))
    covered = np.clip((rim + 0.014 * page.noise(24, 24) - 0.034) / 0.008, 0.0, 1.0)[..., None]
    paper = np.array((0.975, 0.955, 0.91), np.float32)
    return picture * covered + paper * (1.0 - covered)


def _drawing(page: _Page, gloom: float):
    import numpy as np

    paper = np.array((0.985, 0.955, 0.885), np.float32)
    ink = np.array((0.17, 0.13, 0.18), np.float32)
    front = page.foreground()[..., None]
    strength = np.maximum(0.42 + 0.4 * gloom, 0.88 * front)  # the background is only lightly coloured in
    picture = paper * (1.0 - strength) + _dim(page.colours(), gloom * (0.6 - 0.5 * front)) * strength
    period = 8.0 * page.scale
    hatch = (np.arange(page.side)[None, :] + np.arange(page.side)[:, None]) % period < 2.6 * page.scale
    shaded = (page.light() < -0.3) * 0.55 + (page.shadow() > 0.35) * 0.75
    picture = picture * (1.0 - (shaded * hatch * 0.6)[..., None])
    inner, outer = page.edges(2), page.edges(4)
    line = np.where(front[..., 0] > 0, np.maximum(outer, inner), 0.62 * inner)[..., None]
    return picture * (1.0 - 0.9 * line) + ink * 0.9 * line


def _halved(array):
    """Half the size, the mean of every 2 x 2 pixels."""
    return 0.25 * (array[::2, ::2] + array[1::2, ::2] + array[::2, 1::2] + array[1::2, 1::2])


def _dim(picture, gloom):
    """Moonlight: darker and bluer."""
    import numpy as np

    return picture * (1.0 - gloom * np.array((0.5, 0.42, 0.2), np.float32))


def _blur(array, radius: float):
    import numpy as np
    from PIL import Image, ImageFilter

    picture = Image.fromarray((array * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(picture, dtype=np.float32) / 255.0
