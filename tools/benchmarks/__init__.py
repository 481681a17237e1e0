"""What made single pages of docs/.

`export.py` (deployment), `patching.py` (models of other libraries), `gpu.sh` (one GPU). Everybody's
benchmark is `segformer-plusplus benchmark`.
"""
