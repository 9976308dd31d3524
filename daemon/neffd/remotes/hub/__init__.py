"""The Hugging Face Hub as a remote.

Head polls, listings and file GETs are the daemon's own HTTP (`client`): they need time-outs, streaming and the quota
headers. What writes or authenticates goes through huggingface_hub in a process of its own (`worker`), which can be
killed.
"""
