#!/usr/bin/python3
"""The engine against PyTorch as the oracle: logits, all gradients, running statistics and two
steps of SGD in all modes of batch norm, and safetensors files in both directions.

PyTorch computes in float64, so the distance is our error. Exit 77 where torch is absent.
usage: test_torch.py BIN-DIR [NETWORK-PREFIX]
"""
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
try:
    import torch
    import torchvision  # noqa: F401
except ImportError as missing:
    print("SKIP: %s; install python3-torch and python3-torchvision" % missing)
    sys.exit(77)

import safetensors_io
import torch_networks

TOLERANCE = 1e-3
# Of what two steps moved. Wider: after the first step the two sides stand a rounding apart, and a
# single ReLU that one of them sees at the other side of zero shows in a small network.
MOVED_TOLERANCE = 1e-2

# A gradient jumps where the input of a ReLU crosses zero, and two roundings of it may lie on either
# side. Small networks get a batch on which no input comes this near to a kink in either step. Larger
# ones, and the fifty layers of MobileNetV2, have too many inputs for that; with batch statistics
# their norms are calmed, so that every channel keeps away from the kinks: on, off, or (where ReLU6
# is) at the upper end.
MARGIN = 5e-6
SEEDS = 400
KINKS = 5e-2

# network, width, stem, side, images, classes, small
ROWS = [
    ("resnet18", 5, "cifar", 16, 12, 7, True),
    ("resnet18", 4, "imagenet", 64, 10, 7, True),
    ("resnet20", 4, "cifar", 16, 10, 7, True),
    ("mobilenet_v2", 10, "cifar", 8, 8, 7, True),
    ("mobilenet_v2", 35, "imagenet", 64, 6, 7, False),
    ("resnet18", 16, "cifar", 32, 8, 100, False),
    ("resnet20", 16, "cifar", 32, 8, 10, False),
    ("mobilenet_v2", 100, "cifar", 32, 8, 100, False),
]
# device, kernels; a processor without the instructions skips the row visibly
SMALL_DEVICES = [("ref", None), ("blas", "base"), ("blas", "avx2"), ("blas", "avx512")]
LARGE_DEVICES = [("blas", None)]
MODES = ["infer", "train-eval", "train"]


class Failed(Exception):
    pass


def distance(ours, theirs, floor=0.0):
    ours, theirs = ours.double(), theirs.double()
    if ours.shape != theirs.shape:
        raise Failed("shape %s instead of %s" % (tuple(ours.shape), tuple(theirs.shape)))
    size = max(float(theirs.norm()), floor)
    return float((ours - theirs).norm()) / (size if size > 1e-12 else 1.0)


def has_kernels(name):
    wanted = {"avx2": "avx2", "avx512": "avx512f"}.get(name)
    with open("/proc/cpuinfo") as info:
        return wanted is None or wanted in info.read().split()


class Oracle:
    """What PyTorch says, by the names of torch_dump's results."""

    def __init__(self, net, images, mode):
        net.train(mode == "train")
        self.results = {}
        self.margin = 1.0
        for module in net.modules():
            if isinstance(module, (torch.nn.ReLU, torch.nn.ReLU6)):
                module.register_forward_pre_hook(self._keep_margin)
        handle = net.get_submodule("fc" if hasattr(net, "fc") else "classifier.1") \
            .register_forward_pre_hook(self._keep_features)
        labels = torch.arange(len(images))
        optimizer = torch.optim.SGD(
            [{"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 1e-2},
             {"params": [p for p in net.parameters() if p.dim() <= 1], "weight_decay": 0.0}],
            lr=0.05, momentum=0.9, nesterov=True)
        for step in range(2):
            logits = net(images)
            if step == 0:
                handle.remove()
                self.results["logits"] = logits.detach().clone()
            if mode == "infer":
                break
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits, labels % logits.shape[1])
            loss.backward()
            if step == 0:
                for name, param in net.named_parameters():
                    self.results["grad." + name] = param.grad.clone()
            optimizer.step()
        self.after = {name: tensor for name, tensor in net.state_dict().items()
                      if not name.endswith("num_batches_tracked")}

    def _keep_margin(self, module, inputs):
        near = inputs[0].detach().abs().min()
        if isinstance(module, torch.nn.ReLU6):
            near = min(near, (inputs[0].detach() - 6).abs().min())
        self.margin = min(self.margin, float(near))

    def _keep_features(self, _, inputs):
        self.results["features"] = inputs[0].detach().clone()


def check_together(ours, theirs):
    """All gradients as one vector: what single jumps cannot move far."""
    names = [name for name in theirs if name.startswith("grad.")]
    if not names:
        return
    found = distance(torch.cat([ours[name].flatten() for name in names]),
                     torch.cat([theirs[name].flatten() for name in names]))
    if not found <= TOLERANCE:
        raise Failed("all gradients together differ by %.2e" % found)


def typical_gradient(results):
    gradients = [value.double().flatten() for name, value in results.items()
                 if name.startswith("grad.")]
    return float(torch.cat(gradients).square().mean().sqrt()) if gradients else 0.0


def worst(ours, theirs, what, tolerance):
    """Some gradients are zero but for rounding: a shift that the next norm takes away again. So
    each is judged by its own size, or by a hundredth of what is typical of the network."""
    if set(ours) != set(theirs):
        raise Failed("%s: other names: %s" % (what, sorted(set(ours) ^ set(theirs))[:4]))
    typical = typical_gradient(theirs)

    def distance_of(name):
        floor = 0.01 * typical * theirs[name].numel() ** 0.5 if name.startswith("grad.") else 0.0
        return distance(ours[name], theirs[name], floor)
    name = max(theirs, key=distance_of)
    found = distance_of(name)
    if not found <= tolerance:
        raise Failed("%s: '%s' differs by %.2e" % (what, name, found))
    return found, name


class Case:
    def __init__(self, row, scratch, dump):
        self.name, self.width, self.stem, self.side, self.images, self.classes, self.small = row
        self.scratch = scratch
        self.dump = dump
        self.generator = torch.Generator().manual_seed(7)
        torch.manual_seed(3)
        self.net = torch_networks.MAKERS[self.name](self.width, self.stem, self.classes)
        self.model_path = os.path.join(scratch, "model.safetensors")
        self.input_path = os.path.join(scratch, "input.bin")

    def prepare(self, mode):
        """Writes the network that this mode is tested on."""
        torch_networks.stir(self.net, self.generator)
        self.calmed = mode == "train" and (not self.small or self.name == "mobilenet_v2")
        # statistics of eight values magnify rounding too much for the tolerance
        self.count = self.images * 4 if self.calmed and self.small else self.images
        if self.calmed:
            torch_networks.calm(self.net)
        metadata = {"arch": self.name, "stem": self.stem, "width": self.width,
                    "input": "3 %d %d" % (self.side, self.side)}
        safetensors_io.write(self.model_path, self.net.state_dict(), metadata)

    def choose_batch(self, mode):
        """Returns the oracle; a small network's batch keeps its distance from every kink."""
        keeps_away = self.small and not self.calmed
        for seed in range(SEEDS if keeps_away else 1):
            generator = torch.Generator().manual_seed(seed)
            self.batch = torch.randn(self.count, 3, self.side, self.side, generator=generator)
            oracle = Oracle(self.fresh(), self.batch.double(), mode)
            if not keeps_away or oracle.margin > MARGIN:
                break
        else:
            raise Failed("no batch keeps its distance from the kinks")
        with open(self.input_path, "wb") as file:
            file.write(self.batch.numpy().tobytes())
        return oracle

    def fresh(self):
        net = torch_networks.MAKERS[self.name](self.width, self.stem, self.classes)
        net.load_state_dict(self.net.state_dict(), strict=True)
        return net.double()

    def ours(self, device, kernels, mode):
        environment = dict(os.environ)
        if kernels:
            environment["FROSTLINE_KERNELS"] = kernels
        result = subprocess.run(
            [self.dump, "--model", self.model_path, "--input", self.input_path, "--out",
             self.scratch, "--batch", str(self.count), "--device", device, "--mode", mode],
            env=environment, stderr=subprocess.PIPE, text=True, timeout=300)
        if result.returncode:
            raise Failed(result.stderr.strip())
        results, _ = safetensors_io.read(os.path.join(self.scratch, "results.safetensors"))
        return results, safetensors_io.read(os.path.join(self.scratch, "after.safetensors"))

    def check_movement(self, ours, theirs):
        """Of two steps, relative to their size; what float32 cannot hold of a value is no fault."""
        before = self.net.state_dict()
        if set(ours) != set(theirs):
            raise Failed("other names: %s" % sorted(set(ours) ^ set(theirs))[:4])
        worst_found = 0.0
        for name, value in theirs.items():
            moved = float((value - before[name].double()).norm())
            found = float((ours[name].double() - value).norm()) / \
                (moved + 3e-5 * float(value.norm()) + 1e-12)
            if not found <= (MOVED_TOLERANCE if self.small else KINKS):
                raise Failed("two steps: movement of '%s' differs by %.2e" % (name, found))
            worst_found = max(worst_found, found)
        return worst_found

    def check_export(self, after, metadata, oracle):
        """Our file loads into PyTorch's module as it is, and means the same there."""
        if metadata.get("arch") != self.name or metadata.get("width") != str(self.width):
            raise Failed("metadata of the export: %s" % metadata)
        net = torch_networks.MAKERS[self.name](self.width, self.stem, self.classes)
        net.load_state_dict(after, strict=True)
        twin = self.fresh()
        twin.load_state_dict(oracle.after, strict=True)
        with torch.no_grad():
            found = distance(net.double().eval()(self.batch.double()),
                             twin.eval()(self.batch.double()))
        if not found <= TOLERANCE:
            raise Failed("logits of our export in PyTorch differ by %.2e" % found)

    def check(self, device, kernels, mode, oracle):
        results, (after, metadata) = self.ours(device, kernels, mode)
        found, name = worst(results, oracle.results, "results", TOLERANCE)
        check_together(results, oracle.results)
        moved = self.check_movement(after, oracle.after)
        self.check_export(after, metadata, oracle)
        return "worst %.1e (%s); movement %.1e" % (found, name, moved)


def run_row(row, dump):
    failed = 0
    with tempfile.TemporaryDirectory(prefix="frostline-torch-") as scratch:
        case = Case(row, scratch, dump)
        for mode in MODES:
            case.prepare(mode)
            oracle = case.choose_batch(mode)
            for device, kernels in SMALL_DEVICES if case.small else LARGE_DEVICES:
                label = "%s w%d %s %dx%d, %s, %s %s" % (
                    case.name, case.width, case.stem, case.side, case.side, mode, device,
                    kernels or "")
                if not has_kernels(kernels):
                    print("SKIP: %s: not on this processor" % label)
                    continue
                try:
                    print("ok %s: %s" % (label, case.check(device, kernels, mode, oracle)))
                except Failed as why:
                    print("FAILED %s: %s" % (label, why))
                    failed += 1
    return failed


def main():
    dump = os.path.join(sys.argv[1], "torch_dump")
    prefix = sys.argv[2] if len(sys.argv) > 2 else ""
    failed = 0
    rows = [row for row in ROWS if row[0].startswith(prefix)]
    for row in rows:
        failed += run_row(row, dump)
    print("%d networks against PyTorch %s, %d failures" % (len(rows), torch.__version__, failed))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
