#!/usr/bin/env bash
# pyrealsense2 2.59.1: a recording is a file of ROS 2, and its two kinds of extrinsics differ.
#
# Guides and readers expect a .bag of ROS 1. This release refuses that name, and writes one .db3
# without the folder and the metadata.yaml that tools of ROS 2 expect around it:
#
# - depth and colour stay where their cameras are, each with its own lens: nothing is aligned;
# - /device_0/.../tf/ref_1 is a text. Its nine numbers are the rotation by columns, and the motion
#   takes a point of the reference to the stream;
# - /tf_static holds the inverse of that motion, as a quaternion;
# - stamps in the headers count from the start of the recording. The camera's own time is in a text
#   on /image/metadata.
#
# Seen with Python 3.11, pyrealsense2 2.59.1.11053 and rosbags 0.11.9, recording a software device
# whose colour camera is turned by 10 degrees, and shifted by 15 mm:
#   .bag: RuntimeError "Output file must have .db3 extension"
#   text: 0.984808, 0.173648, 0, -0.173648, ...; shift 0.015
#   /tf_static: z of the quaternion -0.0872; shift x -0.0151
#   first stamp of the depth: 0 s, where the camera's own time is 1000 ms
#
# Exit code: 0 where pyrealsense2 still behaves so, 1 where it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyrealsense2==2.59.1.11053 rosbags==0.11.9 numpy==2.4.6
cat > "$folder/record.py" <<'PYTHON'
import math
import sqlite3
import sys
import time

import numpy as np
import pyrealsense2 as rs
from rosbags.typesys import Stores, get_typestore

WIDTH, HEIGHT = 160, 120
folder = sys.argv[1]


def stream(kind, fmt, uid, size):
    one = rs.video_stream()
    one.type, one.fmt, one.index, one.uid = kind, fmt, 0, uid
    one.width, one.height, one.fps, one.bpp = WIDTH, HEIGHT, 30, size
    lens = rs.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy = WIDTH, HEIGHT, 150.0, 150.0
    lens.ppx, lens.ppy, lens.coeffs = 79.5, 59.5, [0, 0, 0, 0, 0]
    lens.model = rs.distortion.brown_conrady
    one.intrinsics = lens
    return one


device = rs.software_device()
sensors = device.add_sensor("Stereo Module"), device.add_sensor("RGB Camera")
depth = sensors[0].add_video_stream(stream(rs.stream.depth, rs.format.z16, 0, 2))
color = sensors[1].add_video_stream(stream(rs.stream.color, rs.format.rgb8, 1, 3))
sensors[0].add_read_only_option(rs.option.depth_units, 1e-4)
turn = math.radians(10.0)
motion = rs.extrinsics()
motion.rotation = [math.cos(turn), math.sin(turn), 0, -math.sin(turn), math.cos(turn), 0, 0, 0, 1]
motion.translation = [0.015, 0.002, -0.001]
depth.register_extrinsics_to(color, motion)
try:
    rs.recorder(f"{folder}/a.bag", device)
    refusal = ""
except RuntimeError as error:
    refusal = str(error)
recorder = rs.recorder(f"{folder}/a.db3", device)
waiting = rs.frame_queue(50)
recorded = recorder.query_sensors()
for one in recorded:
    one.open(one.get_stream_profiles()[0])
    one.start(waiting)
for number in range(4):
    for sensor, profile, pixels, size in (
        (sensors[0], depth, np.full((HEIGHT, WIDTH), 6000, np.uint16), 2),
        (sensors[1], color, np.zeros((HEIGHT, WIDTH, 3), np.uint8), 3),
    ):
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = pixels, WIDTH * size, size
        frame.timestamp, frame.frame_number = 1000.0 + 33.3 * number, number
        frame.domain = rs.timestamp_domain.hardware_clock
        frame.profile = profile.as_video_stream_profile()
        sensor.on_video_frame(frame)
    time.sleep(0.05)
for one in recorded:
    one.stop()
    one.close()
recorder.pause()
del recorder

store = get_typestore(Stores.ROS2_HUMBLE)
file = sqlite3.connect(f"{folder}/a.db3")
rows = file.execute("select t.name, t.type, m.data from messages m join topics t on t.id = m.topic_id")
messages = [(name, store.deserialize_cdr(data, kind)) for name, kind, data in rows]
(text,) = [m.data for name, m in messages if name.endswith("Color_0/tf/ref_1")]
still = [one for name, m in messages if name == "/tf_static" for one in m.transforms]
(inverse,) = [one.transform for one in still if one.child_frame_id == "Color"]
stamps = [m.header.stamp.sec for name, m in messages if "Depth_0/image/data" in name]
camera = [m.data for name, m in messages if name.endswith("Depth_0/image/metadata")]
print("a.bag:     ", refusal)
print("text:      ", text)
print("/tf_static:", f"z {inverse.rotation.z:.4f}, x {inverse.translation.x:.4f}")
print("stamp:     ", stamps[0], "s;", camera[0].split(";")[3])
numbers = [float(one) for one in text.split("=")[1].split(";")[0].split(",")]
as_stated = (
    ".db3" in refusal
    and numbers[:4] == [0.984808, 0.173648, 0.0, -0.173648]
    and "translation=0.015000" in text
    and abs(inverse.rotation.z + math.sin(turn / 2)) < 1e-4
    and abs(inverse.translation.x + 0.0151) < 1e-4
    and stamps[0] < 10
    and "timestamp=1000.0" in camera[0]
)
print("as stated" if as_stated else "pyrealsense2 behaves otherwise now")
sys.exit(0 if as_stated else 1)
PYTHON
"$folder/venv/bin/python" "$folder/record.py" "$folder"
