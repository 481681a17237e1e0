# What docs/fidelity.md measures on photographs beside the presets.


def kv(ratio, stride, how):
    """Matches keys and values; `how` is proportional_attention."""
    matching = dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=stride)
    return dict(kv=matching, proportional_attention=how)


presets = {
    # what the presets weighted and weighted-fast were before photographs were measured
    'proportional 90%': [kv(0.9, 4, True)] * 4,
    'proportional 90%, queries 2x2': [dict(kv(0.9, 4, True), q='NeighborMerging2d')] * 4,
    # what the presets were before: both merged stage 4 more, at first weighted stage 2 as well
    'sampled 80%': [kv(0.8, 3, 'sampled')] * 4,
    'weighted, 88% in stage 4': [
        kv(0.8, 3, 'sampled'),
        kv(0.5, 2, 'sampled'),
        kv(0.8, 3, 'sampled'),
        kv(0.88, 3, 'sampled'),
    ],
    'sampled 88%': [kv(0.88, 3, 'sampled')] * 4,
    'sampled 90%': [kv(0.9, 4, 'sampled')] * 4,
    'sampled 90%, stages 1-3': [*[kv(0.9, 4, 'sampled')] * 3, {}],
}
