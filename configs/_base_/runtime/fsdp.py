# FullyShardedDataParallel: parameters, gradients and the optimizer's state are divided among the
# processes, and each block of the backbone is put together when it is its turn. For what does not
# fit otherwise. Checkpoints are those of any other training: they load, and resume, without FSDP.
#
#     _base_ = ['./your_config.py', '../_base_/runtime/fsdp.py']
#
# Needs tools/train.py (StrictRunner) with a --launcher. Not with EMAHook, clip_grad, compile, nor a
# sampler that has round_up=False. With amp_fp16.py the loss scale is shared among the processes.
model_wrapper_cfg = dict(
    type='MMFullyShardedDataParallel',
    auto_wrap_policy='wrap_blocks',
    sharding_strategy='FULL_SHARD',
    use_orig_params=True,  # the schedules set rates parameter by parameter
)
