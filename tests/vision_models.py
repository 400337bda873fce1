"""Small random models that segment, find and describe, saved in the layouts of the published ones."""

from __future__ import annotations

import torch

SAM_SIZE, SAM2_SIZE, SAM3_SIZE = 64, 128, 56
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "cat", "dog", "red"]


def pictures(count=2, height=40, width=60):
    """8-bit pictures of coarse coloured fields, as floats in 0..1."""
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 4, 6, generator=g)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255
    return images.round() / 255


def shake(model, std=0.15, seed=0):
    """Random weights that are large enough for pictures and prompts to matter."""
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.ndim > 1:  # biases and norms stay as they are
            torch.nn.init.normal_(p, std=std, generator=g)
    return model.eval()


def sam():
    """A SAM of segment_anything: two layers, one of them in windows, on 4x4 patches."""
    from functools import partial

    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)  # of what is random and no parameter
    encoder = ImageEncoderViT(
        img_size=SAM_SIZE,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=32,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=2,
        global_attn_indexes=(1,),
    )
    side = SAM_SIZE // 16
    decoder = MaskDecoder(
        transformer_dim=32,
        transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=48),
    )
    return shake(Sam(encoder, PromptEncoder(32, (side, side), (SAM_SIZE, SAM_SIZE), 16), decoder))


def save_sam2(folder):
    import transformers as t

    backbone = t.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[SAM2_SIZE, SAM2_SIZE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )
    vision = t.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    config = t.Sam2Config(
        vision_config=vision,
        prompt_encoder_config=dict(hidden_size=32, image_size=SAM2_SIZE, patch_size=16),
        mask_decoder_config=dict(
            hidden_size=32,
            mlp_dim=32,
            num_attention_heads=2,
            iou_head_hidden_dim=32,
            dynamic_multimask_via_stability=False,  # else one mask is often the best of three, whatever was asked
        ),
    )
    shake(t.Sam2Model(config)).save_pretrained(folder)
    size = {"height": SAM2_SIZE, "width": SAM2_SIZE}
    t.Sam2Processor(t.Sam2ImageProcessor(size=size)).save_pretrained(folder)


def save_sam3(folder):
    import transformers as t

    tokenizer = _demo_tokenizer()
    backbone = dict(
        model_type="sam3_vit_model",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SAM3_SIZE,
        window_size=2,
        global_attn_indexes=[1],
        pretrain_image_size=28,
    )
    small = dict(hidden_size=32, num_layers=1, num_attention_heads=2, intermediate_size=32)
    text = dict(
        model_type="clip_text_model",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=16,
        **_special(tokenizer),
    )
    config = t.Sam3Config(
        vision_config=dict(
            backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]
        ),
        text_config=text,
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config=dict(small, num_queries=6),
        mask_decoder_config=dict(hidden_size=32, num_attention_heads=2),
    )
    shake(t.Sam3Model(config)).save_pretrained(folder)
    size = {"height": SAM3_SIZE, "width": SAM3_SIZE}
    t.Sam3Processor(t.Sam3ImageProcessor(size=size), tokenizer).save_pretrained(folder)


def save_grounding_dino(folder):
    import transformers as t

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = t.GroundingDinoConfig(
        backbone_config=t.SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 2],
            window_size=2,
            image_size=64,
            out_indices=[2, 3, 4],
        ),
        text_config=t.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=8,
        max_text_len=64,
    )
    torch.manual_seed(0)
    model = t.GroundingDinoForObjectDetection(config).eval()
    for part in (model.model.text_backbone, model.model.text_projection):
        shake(part, std=0.5)
    model.save_pretrained(folder)
    images = t.GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 144})
    t.GroundingDinoProcessor(images, t.BertTokenizer.from_pretrained(folder)).save_pretrained(folder)


def save_blip2(folder):
    import transformers as t

    tokenizer = _demo_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    size = dict(hidden_size=32, num_attention_heads=2)
    config = t.Blip2Config(
        vision_config=dict(size, intermediate_size=32, num_hidden_layers=1, image_size=28),
        qformer_config=dict(size, intermediate_size=32, num_hidden_layers=2, vocab_size=10),
        text_config=t.OPTConfig(
            **size,
            num_hidden_layers=1,
            ffn_dim=32,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            **_special(tokenizer),
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    shake(t.Blip2ForConditionalGeneration(config), std=0.3).save_pretrained(folder)
    images = t.BlipImageProcessor(size={"height": 28, "width": 28})
    t.Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(folder)


def _demo_tokenizer():
    from likeness.core.demo import MODEL
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(MODEL / "tokenizer")


def _special(tokenizer):
    return dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_video_kinds(sam2_folder, sam3_folder, target):
    """The same SAM 2 and SAM 3 as parts of the video models in which they are published: target / "sam2", "sam3"."""
    import transformers as t

    image = t.Sam2Model.from_pretrained(sam2_folder)
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    memory = dict(
        memory_attention_hidden_size=32,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=32,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=32,
    )
    video = t.Sam2VideoModel(t.Sam2VideoConfig(**{p: getattr(image.config, p).to_dict() for p in parts}, **memory))
    video.load_state_dict(image.state_dict(), strict=False)
    video.save_pretrained(target / "sam2")
    t.Sam2Processor.from_pretrained(sam2_folder).save_pretrained(target / "sam2")

    image = t.Sam3Model.from_pretrained(sam3_folder)
    small = dict(hidden_size=32, mlp_dim=32, iou_head_hidden_dim=32)
    tracker = dict(vision_config=image.config.vision_config.to_dict(), mask_decoder_config=small, **memory)
    tracker["prompt_encoder_config"] = dict(hidden_size=32)
    video = t.Sam3VideoModel(t.Sam3VideoConfig(detector_config=image.config.to_dict(), tracker_config=tracker))
    video.detector_model.load_state_dict(image.state_dict())
    video.save_pretrained(target / "sam3")
    t.Sam3Processor.from_pretrained(sam3_folder).save_pretrained(target / "sam3")


def save_blip_vqa(folder):
    import transformers as t

    tokenizer = _bert_tokenizer(folder)
    config = t.BlipConfig(
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=32,
            encoder_hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            sep_token_id=tokenizer.sep_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
    )
    shake(t.BlipForQuestionAnswering(config), std=0.5).save_pretrained(folder)
    images = t.BlipImageProcessor(size={"height": 32, "width": 32})
    t.BlipProcessor(images, tokenizer).save_pretrained(folder)


def save_instructblip(folder):
    import transformers as t

    tokenizer, qformer = _demo_tokenizer(), _bert_tokenizer(folder / "words")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    size = dict(hidden_size=32, num_attention_heads=2)
    config = t.InstructBlipConfig(
        vision_config=dict(size, intermediate_size=32, num_hidden_layers=1, image_size=28),
        qformer_config=dict(size, intermediate_size=32, num_hidden_layers=2, vocab_size=len(qformer)),
        text_config=t.OPTConfig(
            **size,
            num_hidden_layers=1,
            ffn_dim=32,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            **_special(tokenizer),
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    shake(t.InstructBlipForConditionalGeneration(config), std=0.3).save_pretrained(folder)
    images = t.BlipImageProcessor(size={"height": 28, "width": 28})
    t.InstructBlipProcessor(images, tokenizer, qformer, num_query_tokens=4).save_pretrained(folder)


def save_yolos(folder, labels=("person", "face")):
    import transformers as t

    config = t.YolosConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=6,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    shake(t.YolosForObjectDetection(config), std=0.3).save_pretrained(folder)
    t.YolosImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)


def _bert_tokenizer(folder):
    import transformers as t

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return t.BertTokenizer.from_pretrained(folder)
