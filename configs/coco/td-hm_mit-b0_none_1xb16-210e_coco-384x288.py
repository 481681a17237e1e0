_base_ = [
    '../_base_/models/td-hm_mit-b0.py',
    '../_base_/datasets/coco_384x288.py',
    '../_base_/pose_runtime.py',
    '../_base_/schedules/schedule_210e.py',
]

model = dict(head=dict(out_channels=17, decoder=_base_.codec))
