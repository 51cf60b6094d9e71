"""One measured transfer, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True, slots=True)
class Transfer:
    """`started_s` is on time.perf_counter, `seconds` from asking to the last byte (or layer) in place.

    `answered_s` is when the gateway had accepted, `landed_s` when each layer landed, both counted from asking. CPU
    seconds are of the sending process or processes, and of the receiving ones. `lists_per_s` are listings served
    meanwhile, if any were asked for.
    """

    started_s: float
    seconds: float
    payload_bytes: int
    sender_cpu_s: float
    receiver_cpu_s: float
    answered_s: float | None = None
    landed_s: tuple[float, ...] = ()
    lists_per_s: float | None = None

    @property
    def goodput_gb_s(self) -> float:
        return self.payload_bytes / GB / self.seconds

    @property
    def first_layer_ms(self) -> float:
        return self.landed_s[0] * 1e3

    def first_layer_factor(self, first_byte_s: float) -> float:
        """When the first layer landed after a first byte at `first_byte_s`, as a multiple of its share of the whole
        time: 1 is as good as it gets."""
        return max(0.0, self.landed_s[0] - first_byte_s) * len(self.landed_s) / self.seconds

    @property
    def sender_cpu_s_per_gb(self) -> float:
        return self.sender_cpu_s / (self.payload_bytes / GB)

    @property
    def receiver_cpu_s_per_gb(self) -> float:
        return self.receiver_cpu_s / (self.payload_bytes / GB)
