"""What a run costs before it starts: parameters, FLOPs, bytes, days, money. Needs no torch.

count      parameters and FLOPs in closed form     memory     bytes of one rank, and what fits
hardware   GPUs and prices                        planner    a whole run on one page
"""

from .count import CONVENTIONS, Flops, count_parameters, flops_per_token, mfu
from .hardware import CNY_PER_USD, GIB, GPUS, gpu
from .memory import MARGIN, activation_bytes, advice, memory, memory_settings
from .planner import Plan, days, plan, render
