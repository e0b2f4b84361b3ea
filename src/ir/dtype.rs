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
}

/// `(type, ONNX number, NumPy's name, name in ONNX's textual syntax, bytes an element)`
const TABLE: [(DType, i32, &str, &str, usize); 14] = [
    (DType::F32, 1, "float32", "float", 4),
    (DType::U8, 2, "uint8", "uint8", 1),
    (DType::I8, 3, "int8", "int8", 1),
    (DType::U16, 4, "uint16", "uint16", 2),
    (DType::I16, 5, "int16", "int16", 2),
    (DType::I32, 6, "int32", "int32", 4),
    (DType::I64, 7, "int64", "int64", 8),
    (DType::Str, 8, "string", "string", 0),
    (DType::Bool, 9, "bool", "bool", 1),
    (DType::F16, 10, "float16", "float16", 2),
    (DType::F64, 11, "float64", "double", 8),
    (DType::U32, 12, "uint32", "uint32", 4),
    (DType::U64, 13, "uint64", "uint64", 8),
    (DType::BF16, 16, "bfloat16", "bfloat16", 2),
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

    /// Bytes an element takes; 0 for strings.
    pub fn size(self) -> usize {
        self.row().4
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    /// Signed or unsigned; `bool` is not one.
    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool | DType::Str)
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
