//! Element types, with the numbers of ONNX's `TensorProto.DataType`.

use std::fmt;

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

/// `(type, ONNX number, ONNX text name, bytes an element)`
const TABLE: [(DType, i32, &str, usize); 14] = [
    (DType::F32, 1, "float", 4),
    (DType::U8, 2, "uint8", 1),
    (DType::I8, 3, "int8", 1),
    (DType::U16, 4, "uint16", 2),
    (DType::I16, 5, "int16", 2),
    (DType::I32, 6, "int32", 4),
    (DType::I64, 7, "int64", 8),
    (DType::Str, 8, "string", 0),
    (DType::Bool, 9, "bool", 1),
    (DType::F16, 10, "float16", 2),
    (DType::F64, 11, "double", 8),
    (DType::U32, 12, "uint32", 4),
    (DType::U64, 13, "uint64", 8),
    (DType::BF16, 16, "bfloat16", 2),
];

impl DType {
    pub fn from_code(code: i32) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    fn row(self) -> &'static (DType, i32, &'static str, usize) {
        // The table lists every variant, in declaration order.
        &TABLE[self as usize]
    }

    pub fn code(self) -> i32 {
        self.row().1
    }

    /// The name in ONNX's textual syntax.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Bytes an element takes; 0 for strings.
    pub fn size(self) -> usize {
        self.row().3
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }

    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool | DType::Str)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
