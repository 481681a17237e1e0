# What docs/fidelity.md measures beside the presets; also a place to copy strategies from.


def kv(ratio, stride):
    """Matches keys and values, with proportional attention."""
    matching = dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=stride)
    return dict(kv=matching, proportional_attention=True)


hq_queries = dict(q=dict(type='BipartiteSoftMatching2d', ratio=0.8, stride=4))

presets = {
    'hq, proportional': [kv(0.6, 2), kv(0.6, 2), hq_queries, hq_queries],
    'proportional 60%': [kv(0.6, 2)] * 4,
    'proportional 75%': [kv(0.75, 2)] * 4,
    'proportional 95%': [kv(0.95, 5)] * 4,
    'proportional 97%': [kv(0.97, 6)] * 4,
    'kv 2x2': [dict(kv=dict(type='NeighborMerging2d', stride=2))] * 4,
    'kv 4x4': [dict(kv=dict(type='NeighborMerging2d', stride=4))] * 4,
}
