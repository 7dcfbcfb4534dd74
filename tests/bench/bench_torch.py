#!/usr/bin/python3
"""PyTorch's side of bench_torch: one network, one pass, one variant in one process.

Prints a JSON line when it is ready, then answers each line of its input: a number N with the
seconds of N runs, `memory` with the kilobytes that the process had at most. Ends with its input.
"""
import argparse
import json
import os
import sys
import time


def high_water_kb():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=["resnet18", "mobilenet_v2"], required=True)
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--job", choices=["train", "infer"], required=True)
    parser.add_argument("--variant", default="contiguous",
                        choices=["contiguous", "channels_last", "compile", "frozen"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    return parser.parse_args()


def resnet18(torch, torchvision, width, classes):
    """torchvision's ResNet-18 with the CIFAR stem; a width other than 64 scales all stages."""
    net = torchvision.models.resnet18(num_classes=classes)
    if width != 64:
        block = torchvision.models.resnet.BasicBlock
        net.inplanes = width
        net.bn1 = torch.nn.BatchNorm2d(width)
        for stage in range(4):
            layer = net._make_layer(block, width << stage, 2, stride=2 if stage else 1)
            setattr(net, "layer%d" % (stage + 1), layer)
        net.fc = torch.nn.Linear(width * 8, classes)
    net.conv1 = torch.nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
    net.maxpool = torch.nn.Identity()
    return net


def mobilenet_v2(torch, torchvision, classes):
    """torchvision's MobileNetV2 with the strides for 32x32: stem and second stage keep the size."""
    net = torchvision.models.mobilenet_v2(num_classes=classes)
    net.features[0][0].stride = (1, 1)
    net.features[2].conv[1][0].stride = (1, 1)
    return net


def on_device(torch, run, options):
    """The run in the precision asked for, waited for."""
    if options.device == "cpu":
        return run
    tf32 = options.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True

    def waited():
        with torch.autocast("cuda", torch.bfloat16, enabled=options.precision == "bf16"):
            run()
        torch.cuda.synchronize()

    return waited


def train_run(torch, net, images, labels):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True,
                                weight_decay=5e-4)
    loss_of = torch.nn.CrossEntropyLoss()

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss_of(net(images), labels).backward()
        optimizer.step()

    return run


def infer_run(torch, net, images):
    no_grad = getattr(torch, "inference_mode", torch.no_grad)

    def run():
        with no_grad():
            net(images)

    return run


def prepared(torch, net, images, options):
    """The network and the images in the layout of the variant, compiled where it says so."""
    if options.variant != "contiguous":
        net = net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if options.variant == "frozen":
        with torch.no_grad():
            net = torch.jit.freeze(torch.jit.trace(net, images))
            net = torch.jit.optimize_for_inference(net)
    elif options.variant == "compile":
        if options.job == "infer":
            import torch._inductor.config as inductor
            inductor.freezing = True
        net = torch.compile(net)
    return net, images


def main():
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch
    import torchvision

    imported_kb = high_water_kb()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    if options.network == "resnet18":
        net = resnet18(torch, torchvision, options.width, options.classes)
    else:
        net = mobilenet_v2(torch, torchvision, options.classes)
    net.train(options.job == "train")
    net = net.to(options.device)
    images = torch.randn(options.batch, 3, options.side, options.side).to(options.device)
    net, images = prepared(torch, net, images, options)
    labels = (torch.arange(options.batch) % options.classes).to(options.device)
    if options.job == "train":
        run = train_run(torch, net, images, labels)
    else:
        run = infer_run(torch, net, images)
    run = on_device(torch, run, options)
    run()
    run()
    print(json.dumps({"version": torch.__version__, "imported_kb": imported_kb}), flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(json.dumps(high_water_kb()), flush=True)
            continue
        seconds = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
