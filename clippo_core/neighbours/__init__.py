"""A tower in the forms of other tools: timm's folder (`timm_folder.py`), torch.export and ONNX
(`graphs.py`).
"""
