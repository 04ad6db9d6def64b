"""Made-up CT slices and the DICOM segmentations that highdicom makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def slices(
    shape: tuple[int, int, int],
    *,
    row: Sequence[float] = (1.0, 0.0, 0.0),
    column: Sequence[float] = (0.0, 1.0, 0.0),
    spacing: tuple[float, float, float] = (3.0, 2.0, 1.5),
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
) -> list[Dataset]:
    """CT slices of shape (slices, rows, columns); spacing likewise, mm, origin and axes in LPS."""
    normal = np.cross(row, column)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for k in range(shape[0]):
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = CTImageStorage
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        item.StudyInstanceUID, item.SeriesInstanceUID = study, series
        item.FrameOfReferenceUID = frame
        item.PatientID, item.PatientName, item.StudyID = "1", "Made^Up", "1"
        item.PatientBirthDate = item.AccessionNumber = item.ReferringPhysicianName = ""
        item.PatientSex, item.PositionReferenceIndicator = "O", ""
        item.StudyDate, item.StudyTime = "20200101", "000000"
        item.Modality, item.Manufacturer = "CT", "none"
        item.SeriesNumber, item.InstanceNumber = 1, k + 1
        item.ImagePositionPatient = [float(x) for x in origin + k * spacing[0] * normal]
        item.ImageOrientationPatient = [*map(float, row), *map(float, column)]
        item.PixelSpacing, item.SliceThickness = list(spacing[1:]), spacing[0]
        item.Rows, item.Columns = shape[1:]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.PixelRepresentation = 0
        item.PixelData = np.zeros(shape[1:], np.uint16).tobytes()
        made.append(item)
    return made


def write_seg(
    path: Path,
    images: Sequence[Dataset],
    voxels: np.ndarray,
    *,
    names: Sequence[str],
    kind: str = "BINARY",
    concepts: Mapping[str, object] | None = None,
    regions: Mapping[str, object] | None = None,
) -> Path:
    """A SEG whose segments 1, 2, ... have these names and concepts (bone by default)."""
    described = []
    for number, name in enumerate(names, 1):
        described.append(
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=(concepts or {}).get(name, codes.SCT.Bone),
                anatomic_regions=[regions[name]] if regions and name in regions else None,
                algorithm_type="MANUAL",
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=voxels,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=2,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="1",
            device_serial_number="1",
        )
        made.save_as(path)
    return path
