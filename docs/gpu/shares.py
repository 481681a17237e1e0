# What it costs that several blocks share the plan of the first of them (docs/gpu.md).


def kv(ratio, stride, share):
    """Matches keys and values as the preset weighted does."""
    matching = dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=stride)
    return dict(kv=matching, proportional_attention='sampled', share=share)


presets = {
    f'weighted, share {share}': [
        kv(0.8, 3, share),
        kv(0.5, 2, share),
        kv(0.8, 3, share),
        kv(0.5, 2, share),
    ]
    for share in (2, 4)
}
