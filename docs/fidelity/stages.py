# What merging nine tenths of the keys and values of one stage alone costs (docs/fidelity.md).


def alone(stage, how):
    matching = dict(type='BipartiteSoftMatching2d', ratio=0.9, stride=4)
    return [
        dict(kv=matching, proportional_attention=how) if number == stage else {}
        for number in range(1, 5)
    ]


presets = {
    f'{name} 90%, stage {stage}': alone(stage, how)
    for name, how in (('proportional', True), ('sampled', 'sampled'))
    for stage in range(1, 5)
}
