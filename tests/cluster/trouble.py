"""What happens to the cluster: its parts are killed and paused, and a clock goes wrong, in turn."""

import contextlib
import itertools
import random
import threading
import time

import requests

from callers import FILES, TILL, picture
from parts import wait_until

# A node that goes on again, and all nodes once the database is back, have requests to work off.
SLACK_SECONDS = 1.0
# The nodes' settings: how often they sweep, and for how long a deletion can be undone.
SWEEP_SECONDS, UNDO_SECONDS = 3, 60
# More than both sweep.clock_offset_seconds_max and the time to undo a deletion.
FAR_AHEAD_SECONDS = 90
# What all callers need.
SHARED = "shared"


class Outages:
    """When something was away that requests need and that no balancer hides: a node, which its port
    names, or what all nodes share."""

    def __init__(self):
        self.lock, self.all = threading.Lock(), []

    @contextlib.contextmanager
    def of(self, who, slack=SLACK_SECONDS):
        outage = [who, time.monotonic(), float("inf")]
        with self.lock:
            self.all.append(outage)
        try:
            yield
        finally:
            outage[2] = time.monotonic() + slack

    def met(self, begun, ended, asked):
        """Whether a request met one. Which nodes were asked is known unless its answer was cut."""
        with self.lock:
            over = [who for who, first, last in self.all if first <= ended and begun <= last]
        return any(who == SHARED or asked is None or f":{who}" in asked for who in over)


class Trouble:
    """One trouble at a time. Each is over when all nodes are ready again."""

    def __init__(self, nodes, postgres, garage, outages):
        self.nodes, self.postgres, self.garage, self.outages = nodes, postgres, garage, outages
        self.rng, self.counts, self.skewed = random.Random(7), {}, nodes[2]
        self.kinds = [
            self.kill_node,
            self.pause_node,
            self.kill_database,
            self.kill_store_node,
            self.skew_clock,
            self.pause_store_node,
            self.restart_database,
            self.skew_clock_far,
            self.end_sessions,
        ]

    def run(self, seconds):
        """At least each kind once."""
        until = time.monotonic() + seconds
        for round_, kind in enumerate(itertools.cycle(self.kinds)):
            if round_ >= len(self.kinds) and time.monotonic() > until:
                break
            begun = time.monotonic()
            kind()
            for node in self.nodes:
                wait_until(node.is_ready, f"{node.name} to be ready again after {kind.__name__}")
            self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
            print(f"  {kind.__name__}: over after {time.monotonic() - begun:.1f} s", flush=True)
            time.sleep(self.rng.uniform(0.5, 2))

    def kill_node(self):
        node = self.rng.choice(self.nodes)
        # Requests under way break off. Later ones are refused there, which the balancer hides.
        with self.outages.of(node.port, slack=0):
            node.kill()
        time.sleep(self.rng.uniform(0.2, 2))
        node.start()

    def pause_node(self):
        """It keeps its connections and accepts more, but answers nothing. No balancer can see the
        difference to a slow one."""
        node = self.rng.choice(self.nodes)
        with self.outages.of(node.port):
            node.pause()
            # Longer than the others' patience with a transaction that it may have left open.
            time.sleep(self.rng.uniform(3, 12))
            node.resume()

    def kill_database(self):
        with self.outages.of(SHARED):
            self.postgres.kill()
            time.sleep(self.rng.uniform(0.2, 2))
            self.postgres.start()

    def restart_database(self):
        with self.outages.of(SHARED):
            self.postgres.stop()
            self.postgres.start()

    def end_sessions(self):
        with self.outages.of(SHARED):
            self.postgres.ends_sessions()

    def kill_store_node(self):
        node = self.rng.choice(self.garage.nodes)
        node.kill()
        time.sleep(self.rng.uniform(0.2, 3))
        node.start()

    def pause_store_node(self):
        node = self.rng.choice(self.garage.nodes)
        with self.outages.of(SHARED):
            node.pause()
            time.sleep(self.rng.uniform(2, 6))
            node.resume()

    def skew_clock(self):
        """So little that the node goes on."""
        self.skewed.set_clock(self.rng.choice([-20, 20]))
        time.sleep(4)
        assert self.skewed.is_ready(), "a node whose clock is 20 s off is ready"
        self.skewed.set_clock(0)

    def skew_clock_far(self):
        """By more than sweep.clock_offset_seconds_max: the node is unready, and removes nothing
        that is due by its own clock alone."""
        name = f"undo{time.monotonic_ns()}.png"
        path = f"{self.nodes[0].url}{FILES}/{name}"
        assert (
            requests.post(
                path, data=picture(5_000, time.monotonic_ns()), headers=TILL, timeout=60
            ).status_code
            == 200
        )
        self.skewed.set_clock(FAR_AHEAD_SECONDS)
        wait_until(self.is_unready, "a node to be unready whose clock is far off", 20)
        assert requests.delete(path, headers=TILL, timeout=60).status_code == 200
        refused = self.skewed.run("sweep", check=False)
        assert refused.returncode == 1 and "nothing is removed" in refused.stderr, (
            refused.stdout + refused.stderr
        )
        # The node itself has the time to sweep.
        time.sleep(2 * SWEEP_SECONDS + 1)
        answer = requests.post(f"{path}/restore", headers=TILL, timeout=60)
        assert answer.status_code == 200, f"what was deleted a moment ago is swept: {answer.text}"
        # It serves all the same: what is wrong is only its clock.
        assert (
            requests.get(f"{self.skewed.url}{FILES}/{name}", headers=TILL, timeout=60).status_code
            == 200
        )
        self.skewed.set_clock(0)

    def is_unready(self):
        return requests.get(f"{self.skewed.url}/readyz", timeout=20).status_code == 503
