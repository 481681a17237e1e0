# What was measured, did not help and was left out: runs at the commit that docs/fidelity.md names.
matching = dict(type='BipartiteSoftMatching2d', ratio=0.9, stride=4)

strategies = {
    'weighed, by keys': [dict(kv=matching, weigh_keys=True, match_on='projections')] * 4,
    'weighed, mlerp': [dict(kv=dict(matching, reduce='mlerp'), weigh_keys=True)] * 4,
    'hq, mlerp': [
        dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6, stride=2, reduce='mlerp')),
    ]
    * 2
    + [dict(q=dict(type='BipartiteSoftMatching2d', ratio=0.8, stride=4, reduce='mlerp'))] * 2,
    'hq, by keys': [
        dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.6, stride=2), match_on='projections'),
    ]
    * 2
    + [dict(q=dict(type='BipartiteSoftMatching2d', ratio=0.8, stride=4), match_on='projections')]
    * 2,
    'energy 50%': [dict(kv=dict(type='EnergyMatching', ratio=0.5))] * 4,
    'energy 50%, weighed': [dict(kv=dict(type='EnergyMatching', ratio=0.5), weigh_keys=True)] * 4,
    '1d matching 50%, weighed': [
        dict(kv=dict(type='BipartiteSoftMatching1d', ratio=0.5), weigh_keys=True)
    ]
    * 4,
    'cubist': [dict(kv=dict(type='CubistMerging', ratio=0.37))] * 2
    + [dict(q=dict(type='CubistMerging', ratio=0.37))] * 2,
    'cubist, max magnitude': [
        dict(kv=dict(type='CubistMerging', ratio=0.37, representation='max_magnitude'))
    ]
    * 2
    + [dict(q=dict(type='CubistMerging', ratio=0.37, representation='max_magnitude'))] * 2,
    'weighed, cubist queries': [
        dict(kv=matching, weigh_keys=True, q=dict(type='CubistMerging', ratio=0.37))
    ]
    * 4,
    '2x2, bilinear': [dict(q=dict(type='NeighborMerging2d', stride=2, unmerge='bilinear'))] * 4,
}
