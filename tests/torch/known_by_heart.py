#!/usr/bin/python3
"""The tables of METHODS.md, "Exemplars known by heart", worked out without the engine.

What a base makes of images that it was trained on and of others, and what stage A's fit of new rows
comes to, by the width of its prior and by how far old classes' features are pulled to the middle.
Features by PyTorch, the fit by its L-BFGS: an oracle for learner/src/head_fit.c and head_rows.c.
Tests on the test images: for understanding, not for choosing.

usage: known_by_heart.py MODEL.safetensors CIFAR-100-DIRECTORY ORDER-FILE
       MODEL: resnet18 or mobilenet_v2 for 32x32 with 90 classes (frostline delta export makes one)
"""
import json
import os
import struct
import sys

import numpy as np
import torch
import torchvision

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
import bench_torch  # noqa: E402  the networks, as the bench builds them

OLD, NEW = 90, 10
SEEN, EXEMPLARS = 40, 20  # training images of an old class looked at; of them the fit gets


def load(path):
    """Network without its classifier, the classifier's weight and bias, mean and std."""
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    meta = header.pop("__metadata__")
    state = {}
    for name, entry in header.items():
        begin, end = (8 + size + at for at in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data[begin:end], "<f4").copy()
        state[name] = torch.from_numpy(values.reshape(entry["shape"]))
    if meta["arch"] == "resnet18":
        net = bench_torch.resnet18(torch, torchvision, int(meta["width"]), OLD)
        head, last = "fc", "fc"
    else:
        net = bench_torch.mobilenet_v2(torch, torchvision, OLD)
        head, last = "classifier.1", "classifier"
    net.load_state_dict(state, strict=False)
    setattr(net, last, torch.nn.Identity())
    weight, bias = state[head + ".weight"].numpy(), state[head + ".bias"].numpy()
    numbers = [np.float32([float(x) for x in meta[key].split()]).reshape(1, 3, 1, 1)
               for key in ("mean", "std")]
    return net.eval(), weight, bias, numbers


def features(net, pixels, numbers):
    out = []
    with torch.no_grad():
        for at in range(0, len(pixels), 250):
            images = pixels[at:at + 250].reshape(-1, 3, 32, 32).astype(np.float32) / 255
            out.append(net(torch.from_numpy((images - numbers[0]) / numbers[1])).numpy())
    return np.concatenate(out)


def fit(weight, bias, old, old_labels, new, new_labels, precision):
    """New rows by logit-adjusted cross-entropy over fixed old ones; as stage A."""
    x = torch.from_numpy(np.concatenate([new, old]).astype(np.float32))
    labels = torch.from_numpy(np.concatenate([new_labels, old_labels]))
    middle = x.mean(0)
    counts = np.bincount(labels.numpy(), minlength=weight.shape[0] + NEW)
    adjust = torch.from_numpy(np.log(counts / counts.sum()).astype(np.float32))
    fixed = x @ torch.from_numpy(weight.T) + torch.from_numpy(bias)
    rows = torch.zeros(NEW, x.shape[1], requires_grad=True)
    level = torch.zeros(NEW, requires_grad=True)
    solver = torch.optim.LBFGS([rows, level], max_iter=200, history_size=20, tolerance_grad=1e-6,
                               tolerance_change=1e-9, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        logits = torch.cat([fixed, (x - middle) @ rows.T + level], 1) + adjust
        value = torch.nn.functional.cross_entropy(logits, labels)
        value = value + precision / len(x) / 2 * (rows ** 2).sum()
        value.backward()
        return value

    solver.step(loss)
    rows, level = rows.detach().numpy(), level.detach().numpy()
    return rows, level - rows @ middle.numpy()


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    net, weight, bias, numbers = load(sys.argv[1])
    order = np.loadtxt(sys.argv[3], dtype=int)
    output_of = np.argsort(order)
    train, test = (np.fromfile(os.path.join(sys.argv[2], name), np.uint8).reshape(-1, 3074)
                   for name in ("train.bin", "test.bin"))
    train_labels, test_labels = output_of[train[:, 1]], output_of[test[:, 1]]
    rng = np.random.default_rng(1)
    chosen = np.concatenate([rng.permutation(np.where(train_labels == c)[0])[:SEEN]
                             for c in range(OLD)])
    fresh = np.where(train_labels >= OLD)[0]
    seen, seen_labels = features(net, train[chosen][:, 2:], numbers), train_labels[chosen]
    new, new_labels = features(net, train[fresh][:, 2:], numbers), train_labels[fresh]
    unseen = features(net, test[:, 2:], numbers)

    def look(what, x, labels):
        logits = x @ weight.T + bias
        top = np.sort(logits, 1)
        print("%-7s accuracy %.1f %%, margin of the largest logit %.1f" %
              (what, 100 * np.mean(logits.argmax(1) == labels), np.mean(top[:, -1] - top[:, -2])))

    look("seen", seen, seen_labels)
    look("unseen", unseen[test_labels < OLD], test_labels[test_labels < OLD])
    middle = seen.mean(0)
    here = np.stack([seen[seen_labels == c].mean(0) for c in range(OLD)]) - middle
    there = np.stack([unseen[test_labels == c].mean(0) for c in range(OLD)]) - middle
    print("class means of unseen images at %.2f of the way from the middle" %
          np.mean((here * there).sum(1) / (here ** 2).sum(1)))
    known = 1 / np.mean((weight - weight.mean(0)) ** 2)
    print("1 / variance of old rows' weights: %.0f" % known)
    first = np.concatenate([np.where(seen_labels == c)[0][:EXEMPLARS] for c in range(OLD)])
    for precision, pull in [(0.25, 1), (0.03 * known, 1), (0.1 * known, 1), (0.3 * known, 1),
                            (0.1 * known, 0.9), (0.1 * known, 0.85), (0.1 * known, 0.8),
                            (0.1 * known, 0.7), (0.1 * known, 0.5)]:
        rows, level = fit(weight, bias, middle + pull * (seen[first] - middle), seen_labels[first],
                          new, new_labels, precision)
        logits = np.concatenate([unseen @ weight.T + bias, unseen @ rows.T + level], 1)
        right = logits.argmax(1) == test_labels
        print("precision %6.2f, pulled to %.2f: all %.2f, old %.2f, new %.2f %%" %
              (precision, pull, 100 * right.mean(), 100 * right[test_labels < OLD].mean(),
               100 * right[test_labels >= OLD].mean()))


if __name__ == "__main__":
    main()
