"""What sparse weights inside an ONNX file save, and what they cost when the file is loaded and run."""
