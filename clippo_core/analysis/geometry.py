"""The modality gap and the patch kernel's components, as in the paper's section 5."""

from clippo_core.measure.geometry import modality_gap, patch_components

__all__ = ["modality_gap", "patch_components"]
