_base_ = './default_runtime.py'

default_scope = 'mmpose'
visualizer = dict(type='PoseLocalVisualizer')
log_processor = dict(by_epoch=True)
