"""A recommender as ONNX graphs and plain files, to be served without PyTorch."""
