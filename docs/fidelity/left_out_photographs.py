# What was tried on photographs in the place of the matching of the preset `weighted`, and left out:
# 80 % of the keys and values of stages 1 to 3, weighed by the attention of a sample, each time.
custom_imports = dict(imports=['merging_left_out'])  # with PYTHONPATH=docs/fidelity


def stages(*kinds, **settings):
    keys = [dict(type=kind, **settings) for kind in kinds]
    return [*[dict(kv=kv, proportional_attention='sampled') for kv in keys], {}]


presets = {
    'by threshold': stages(*['ThresholdMatching'] * 3, ratio=0.8, stride=3),
    'windows': stages(*['LocalWindowMerging'] * 3, ratio=0.8, stride=3),
    'cells': stages(*['NeighborMerging2d'] * 3, stride=(2, 3)),
    'grown destinations': stages(*['GrownDestinations'] * 3, ratio=0.8),
    'grown destinations 90%': stages(*['GrownDestinations'] * 3, ratio=0.9),
    'sampled 90%, stages 1-3': stages(*['BipartiteSoftMatching2d'] * 3, ratio=0.9, stride=4),
    'farthest points': stages(*['FarthestPoints'] * 3, ratio=0.8),
    'matching in rounds': stages(*['MatchingInRounds'] * 3, ratio=0.8),
    'queries of stage 3 in windows': [
        *[
            dict(
                kv=dict(type='BipartiteSoftMatching2d', ratio=0.8, stride=3),
                proportional_attention='sampled',
            )
        ] * 2,
        dict(
            kv=dict(type='BipartiteSoftMatching2d', ratio=0.8, stride=3),
            q=dict(type='LocalWindowMerging', ratio=0.3),
            proportional_attention='sampled',
        ),
        {},
    ],
}  # fmt: skip
