"""
The buckets of histograms, and where each row of them comes from.
"""

from __future__ import annotations

from typing import Final

# From a cached 401 to a generation that runs into OpenAI's 600 s client time-out; the
# steps double or less, so that a quantile is never off by more than that. OpenTelemetry
# ends http.server.request.duration at 10 s and gen_ai.client.operation.duration at 82 s
# (semantic conventions 1.41), where an LLM's answer may just begin.
DURATION_BUCKETS_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600,
)  # fmt: skip
# Those of gen_ai.server.time_to_first_token (1.41) from 20 ms, to the 600 s at which
# clients give up.
FIRST_TOKEN_BUCKETS_S: Final = (
    0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
    320, 600,
)  # fmt: skip
# Those of gen_ai.server.time_per_output_token (1.41): 100 to 0.4 tokens a second; with
# two below, for models that are faster.
OUTPUT_TOKEN_BUCKETS_S: Final = (
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1,
    2.5,
)  # fmt: skip
# A whole request takes well under a millisecond of CPU; what is above 0.1 s is a queue.
ADDED_BUCKETS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
# GATEWAY_STORE_TIMEOUT_S is 50 ms unless set, and 5 s at most.
STORE_BUCKETS_S: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5,
)  # fmt: skip
# Actual over reserved tokens: below 1 is a refund, above 1 a top-up.
RATIO_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.15, 1.5, 2, 5)
# Batches: OpenAI's completion window is 24 h, so that what is above was ended by its
# time. Below, results are missed after 10 minutes (GATEWAY_BATCH_RESULT_TIMEOUT_S) and
# asked for three times; each step doubles or nearly.
BATCH_BUCKETS_S: Final = (
    1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 57_600,
    86_400,
)  # fmt: skip
