//! Element types of tensors, in graphs and on the host, with the numbers of ONNX's `TensorProto.DataType`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    U8,
    I8,
    U16,
    I16,
    I32,
    I64,
    Str,
    Bool,
    F16,
    F64,
    U32,
    U64,
    BF16,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    U4,
    I4,
    F4E2M1,
    E8M0,
    U2,
    I2,
}

/// `(type, ONNX number, NumPy's name, name in ONNX's textual syntax, bits an element)`
const TABLE: [(DType, i32, &str, &str, usize); 24] = [
    (DType::F32, 1, "float32", "float", 32),
    (DType::U8, 2, "uint8", "uint8", 8),
    (DType::I8, 3, "int8", "int8", 8),
    (DType::U16, 4, "uint16", "uint16", 16),
    (DType::I16, 5, "int16", "int16", 16),
    (DType::I32, 6, "int32", "int32", 32),
    (DType::I64, 7, "int64", "int64", 64),
    (DType::Str, 8, "string", "string", 0),
    (DType::Bool, 9, "bool", "bool", 8),
    (DType::F16, 10, "float16", "float16", 16),
    (DType::F64, 11, "float64", "double", 64),
    (DType::U32, 12, "uint32", "uint32", 32),
    (DType::U64, 13, "uint64", "uint64", 64),
    (DType::BF16, 16, "bfloat16", "bfloat16", 16),
    (DType::E4M3FN, 17, "float8_e4m3fn", "float8e4m3fn", 8),
    (DType::E4M3FNUZ, 18, "float8_e4m3fnuz", "float8e4m3fnuz", 8),
    (DType::E5M2, 19, "float8_e5m2", "float8e5m2", 8),
    (DType::E5M2FNUZ, 20, "float8_e5m2fnuz", "float8e5m2fnuz", 8),
    (DType::U4, 21, "uint4", "uint4", 4),
    (DType::I4, 22, "int4", "int4", 4),
    (DType::F4E2M1, 23, "float4_e2m1fn", "float4e2m1", 4),
    (DType::E8M0, 24, "float8_e8m0fnu", "float8e8m0", 8),
    (DType::U2, 25, "uint2", "uint2", 2),
    (DType::I2, 26, "int2", "int2", 2),
];

impl DType {
    pub fn from_code(code: i32) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    fn row(self) -> &'static (DType, i32, &'static str, &'static str, usize) {
        // The table lists every variant, in declaration order.
        &TABLE[self as usize]
    }

    pub fn code(self) -> i32 {
        self.row().1
    }

    /// NumPy's name (`float32`), which is that of manifests and of what is said of data. It is what [`fmt::Display`] writes.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// The name in ONNX's textual syntax (`float`), which is that of printed graphs and of what is said of their values.
    pub fn onnx_name(self) -> &'static str {
        self.row().3
    }

    /// Bits an element takes; 0 for strings.
    pub fn bits(self) -> usize {
        self.row().4
    }

    /// Bytes an element takes; 0 for strings, and for types of which a byte holds several.
    pub fn size(self) -> usize {
        self.bits() / 8
    }

    /// Bytes that so many elements take, the last of them filled up; `None` if that is more than a number holds.
    pub fn bytes(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits())?.div_ceil(8))
    }

    /// Floats of eight bits or fewer. They carry weights and scales, and have no tangents.
    pub fn is_small_float(self) -> bool {
        use DType::{E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, E8M0, F4E2M1};
        matches!(self, E4M3FN | E4M3FNUZ | E5M2 | E5M2FNUZ | E8M0 | F4E2M1)
    }

    /// One of those that have tangents.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// Signed or unsigned; `bool` is not one.
    pub fn is_int(self) -> bool {
        !self.is_float() && !self.is_small_float() && !matches!(self, DType::Bool | DType::Str)
    }

    /// The smallest and largest value of an integer type; `None` for the others.
    pub fn int_range(self) -> Option<(i128, i128)> {
        Some(match self {
            DType::I8 => (i8::MIN.into(), i8::MAX.into()),
            DType::I16 => (i16::MIN.into(), i16::MAX.into()),
            DType::I32 => (i32::MIN.into(), i32::MAX.into()),
            DType::I64 => (i64::MIN.into(), i64::MAX.into()),
            DType::U8 => (0, u8::MAX.into()),
            DType::U16 => (0, u16::MAX.into()),
            DType::U32 => (0, u32::MAX.into()),
            DType::U64 => (0, u64::MAX.into()),
            DType::U4 => (0, 15),
            DType::I4 => (-8, 7),
            DType::U2 => (0, 3),
            DType::I2 => (-2, 1),
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// By [`DType::name`]; strings are refused, as no stored tensor has them.
impl<'de> Deserialize<'de> for DType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        let found = String::deserialize(deserializer)?;
        let stored = || TABLE.iter().filter(|row| row.0 != DType::Str);
        stored().find(|row| row.2 == found).map(|row| row.0).ok_or_else(|| {
            let names: Vec<&str> = stored().map(|row| row.2).collect();
            de::Error::custom(format!("unknown element type `{found}`; expected one of {}", names.join(", ")))
        })
    }
}
