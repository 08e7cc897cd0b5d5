"""A device whose times are a formula and whose clock is counted, so that plans and budgets need no torch."""

DEVICE = {"device": "Fake", "torch": "0", "threads": 1, "driver": "1", "cuda": None}


class FakeBench:
    def __init__(self, seconds_a_sample=0.001, disturbed=lambda turn: 0.0, fails=(), slow=None):
        self.now = 0.0
        self.cost, self.disturbed, self.fails, self.slow = seconds_a_sample, disturbed, fails, slow or {}
        self.prepared, self.turn, self.samples = [], 0, 0
        self.interrupt_at = None

    def clock(self):
        return self.now

    def prepare(self, file, key):
        if (file, key) in self.fails:
            return None
        self.prepared.append((file, key))

        def sample():
            self.samples += 1
            if self.samples == self.interrupt_at:
                raise KeyboardInterrupt
            self.now += self.cost
            size = sum(part for part in key if isinstance(part, int))
            times = {"time_us": self.slow.get((file, key), 10.0 + size)}
            if file == "skew.csv":
                times |= {"mean_us": 10.0 + size / 2, "long_us": 10.0 + 2 * size}
            if file == "host.csv":
                times = {"time_us": 5.0, "eager_us": 50.0, "step_us": 105.0, "ops_us": 100.0}
            return times

        return sample

    def disturbance(self):
        self.turn += 1
        return self.disturbed(self.turn)

    def facts(self):
        return {"kernels": {"attention": "none"}, "state": {"clock": 1}}
