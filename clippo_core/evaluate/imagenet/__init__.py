"""Zero-shot and few-shot classification of ImageNet and its like."""
