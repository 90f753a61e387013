"""Names and numbers of the MNN file format (a FlatBuffer), as far as this package reads it.

Source: ``schema/default/{MNN,CaffeOp,Tensor,UserDefine}.fbs`` of the MNN project, version 3.6. A number is the
position of a field in its table; positions never change between versions, new fields are appended.
"""

from __future__ import annotations

from enum import IntEnum


class Net(IntEnum):
    """Fields of the root table."""

    BIZ_CODE = 0
    OPERATORS = 3
    OUTPUT_NAMES = 4
    TENSOR_NAMES = 7


class Op(IntEnum):
    """Fields of one operator; `MAIN` is a union whose member is named by `MAIN_TYPE`."""

    INPUTS = 0
    MAIN_TYPE = 1
    MAIN = 2
    NAME = 3
    OUTPUTS = 4
    TYPE = 5


class Main(IntEnum):
    """Members of the operator union that hold constants or the interface."""

    BLOB = 7
    CONVOLUTION = 9
    INPUT = 21
    PRELU = 32
    SCALE = 58
    LAYER_NORM = 88


class Convolution(IntEnum):
    """Fields of Convolution2D, which also holds converted matrix products."""

    COMMON = 0
    WEIGHT = 1
    BIAS = 2
    QUANTIZED = 3
    SYMMETRIC = 4
    SPARSE = 5
    EXTERNAL = 6


class Common(IntEnum):
    """Fields of Convolution2DCommon."""

    KERNEL_X = 2
    KERNEL_Y = 3
    GROUP = 9
    OUTPUTS = 10
    INPUTS = 11


class Quantized(IntEnum):
    """Fields of IDSTQuan: float16, integer codes, or the nonzero values of a sparse weight."""

    BUFFER = 0
    ALPHA = 1
    TYPE = 2
    SCALE = 4
    MINIMUM = 8
    READ_TYPE = 9
    SCALE_IS_INTEGER = 10
    SHAPE_INT32 = 11
    WEIGHT_SIZE = 12
    INDEX = 13
    SCALE_STORAGE = 14


class Blob(IntEnum):
    """Fields of a constant tensor."""

    DIMS = 0
    FORMAT = 1
    DTYPE = 2
    UINT8 = 3
    INT8 = 4
    INT32 = 5
    INT64 = 6
    FLOAT32 = 7
    EXTERNAL = 9


class Input(IntEnum):
    """Fields of an input operator."""

    DIMS = 0
    DTYPE = 1
    FORMAT = 2


# Other constants kept inside operators: union member -> (field, role).
INLINE_CONSTANTS = {
    Main.PRELU: ((1, "slope"),),
    Main.SCALE: ((1, "scale"), (2, "bias")),
    Main.LAYER_NORM: ((2, "gamma"), (3, "beta")),
}

DTYPES = {1: "float32", 3: "int32", 4: "uint8", 6: "int8", 9: "int64", 10: "bool", 19: "float16"}
LAYOUT_NHWC = 1

_RUNS = {
    0: """AbsVal QuantizedAdd ArgMax AsString InstanceNorm BatchToSpaceND Copy BinaryOp Bnll Cast Concat Const
        Convolution ConvolutionDepthwise Crop CropAndResize ImageProcess Deconvolution DeconvolutionDepthwise
        Dequantize DetectionOutput Dropout Eltwise ELU Unique Exp ExpandDims Fill Flatten Im2Col Gather GatherV2
        Im2Seq InnerProduct Input Interp Log LRN LSTM MatMul MoE NonMaxSuppression NonMaxSuppressionV2 Normalize Pack
        Padding Permute Pooling Power PReLU PriorBox Proposal QuantizedAvgPool QuantizedBiasAdd QuantizedConcat
        QuantizedDepthwiseConv2D QuantizedLogistic RasterAndInterpolate QuantizedMaxPool Texture RasterDiff
        QuantizedReshape QuantizedSoftmax QuantizeMaxMin QuantizeV2 Range Rank ReduceJoin Reduction ReLU ReLU6
        RequantizationRange Requantize Reshape Resize RNN ROIPooling Scale Selu Seq2Out Shape Sigmoid Size Slice SliceTf
        Softmax SpaceToBatchND SpatialProduct Col2Im Segment Squeeze StridedSlice CastLike StringSplit StringToNumber
        TanH TfQuantizedConv2D Threshold Tile TopKV2 Transpose UnaryOp Unpack Where Moments RNNSequenceGRU BatchMatMul
        Unsqueeze CosineSimilarity DepthToSpace SpaceToDepth ReverseSequence Pooling3D Convolution3D MatrixBandPart
        GatherND DetectionPostProcess UnravelIndex ScatterNd OneHot BroadcastTo Dilation2D Interp3D""",
    128: """Raster ConvertTensor ArgMin LinSpace RandomUniform TensorArray TensorArraySize TensorArrayRead
        TensorArrayWrite TensorArrayGather TensorArrayScatter TensorArraySplit TensorArrayConcat LSTMBlockCell Reverse
        ROIAlign RandomNormal TensorArrayInsert TensorArrayErase EyeLike CumSum Det CumProd ScatterElements
        GatherElements Svd Histogram DynamicQuant Stft""",
    256: """Plugin Select ZerosLike Broastcast SetDiff1D ReluGrad Identity PoolGrad SoftmaxGrad Conv2DBackPropFilter
        TrainableParam BatchNorm ConvTranspose3D ZeroGrad""",
    299: "Attention FmhaV2 Fmhca SeqLen2Spatial SplitGeLU GroupNorm LinearAttention RoPE",
    512: "Extra ConvInt8 Int8ToFloat DepthwiseConvInt8",
    517: "FloatToInt8 EltwiseInt8",
    600: "While If",
    603: "LayerNorm GridSample",
}
OPERATOR_NAMES = {start + index: name for start, names in _RUNS.items() for index, name in enumerate(names.split())}
