//! Elements of at most eight bits that no processor computes with: the numbers they stand for, and how they are packed.
//! Source: ONNX's "Float stored in 8 bits", "4 bit integer types" and the OCP's "Microscaling Formats".

use super::DType;

/// A float with a sign: bits of the mantissa, bias of the exponent, and whether its only NaN is the negative zero.
fn form(dtype: DType) -> Option<(u32, i32, bool)> {
    Some(match dtype {
        DType::E4M3FN => (3, 7, false),
        DType::E4M3FNUZ => (3, 8, true),
        DType::E5M2 => (2, 15, false),
        DType::E5M2FNUZ => (2, 16, true),
        DType::F4E2M1 => (1, 1, false),
        _ => return None,
    })
}

/// The number that a code stands for.
pub(crate) fn decode(dtype: DType, code: u8) -> f64 {
    match (dtype, form(dtype)) {
        (DType::E8M0, _) if code == 255 => f64::NAN,
        (DType::E8M0, _) => 2f64.powi(i32::from(code) - 127),
        (_, Some((mantissa, bias, unsigned_zero))) => {
            let sign = 1u8 << (dtype.bits() - 1);
            let magnitude = code & (sign - 1);
            let (exponent, fraction) = (i32::from(magnitude >> mantissa), magnitude & ((1 << mantissa) - 1));
            let special = match dtype {
                DType::E4M3FN if magnitude == 0x7f => Some(f64::NAN),
                DType::E5M2 if exponent == 31 => Some(if fraction == 0 { f64::INFINITY } else { f64::NAN }),
                _ if unsigned_zero && code == sign => Some(f64::NAN),
                _ => None,
            };
            let steps = f64::from(fraction) / f64::from(1 << mantissa);
            let number =
                if exponent == 0 { steps * 2f64.powi(1 - bias) } else { (1.0 + steps) * 2f64.powi(exponent - bias) };
            let number = special.unwrap_or(number);
            if code & sign != 0 { -number } else { number }
        }
        // Integers, of two's complement where they have a sign.
        _ => {
            let (bits, signed) = (dtype.bits(), matches!(dtype, DType::I4 | DType::I2));
            let value = i32::from(code & ((1 << bits) - 1));
            f64::from(if signed && value >> (bits - 1) != 0 { value - (1 << bits) } else { value })
        }
    }
}

/// The code of a number: the nearest one, of two the even one, and the largest beyond it; powers of two are rounded up.
pub(crate) fn encode(dtype: DType, v: f64) -> u8 {
    if let Some((low, high)) = dtype.int_range() {
        let mask = (1u16 << dtype.bits()) - 1;
        return ((v as i128).clamp(low, high) as u16 & mask) as u8;
    }
    let codes = 0..=(u8::MAX >> (8 - dtype.bits()));
    if v.is_nan() {
        return codes.clone().find(|&code| decode(dtype, code).is_nan()).unwrap_or(0);
    }
    if dtype == DType::E8M0 {
        return codes.clone().find(|&code| decode(dtype, code) >= v).unwrap_or(254);
    }
    let sign = 1u8 << (dtype.bits() - 1);
    let finite = (0..sign).filter(|&code| decode(dtype, code).is_finite());
    // Far away all would be equally near.
    let near = v.abs().min(finite.clone().map(|code| decode(dtype, code)).fold(0.0, f64::max));
    let distance = |code: u8| (decode(dtype, code) - near).abs();
    let magnitude =
        finite.min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2)))).unwrap_or(0);
    let unsigned = form(dtype).is_some_and(|(_, _, unsigned_zero)| unsigned_zero && magnitude == 0);
    if v.is_sign_negative() && !unsigned { magnitude | sign } else { magnitude }
}

/// The number that a small float keeps of `v`. Without `saturate`, what is rounded beyond the largest number is infinite
/// or, where there is no infinity, NaN.
pub(crate) fn rounded(dtype: DType, v: f64, saturate: bool) -> f64 {
    let kept = decode(dtype, encode(dtype, v));
    let top = encode(dtype, f64::MAX);
    let (largest, below) = (decode(dtype, top), decode(dtype, top - 1));
    let beyond = v.abs() >= largest + (largest - below) / 2.0;
    match dtype {
        DType::E8M0 | DType::F4E2M1 => kept,
        _ if saturate || v.is_nan() || !beyond => kept,
        DType::E5M2 => f64::INFINITY.copysign(v),
        _ => f64::NAN,
    }
}

/// Element `k` of packed codes: the first stands in the lowest bits.
pub(crate) fn code(dtype: DType, bytes: &[u8], k: usize) -> u8 {
    let bits = dtype.bits();
    let each = 8 / bits;
    let byte = bytes.get(k / each).copied().unwrap_or(0);
    (byte >> (k % each * bits)) & (u8::MAX >> (8 - bits))
}

/// Codes side by side, as many to a byte as fit.
pub(crate) fn pack(dtype: DType, codes: &[u8]) -> Vec<u8> {
    let bits = dtype.bits();
    let byte = |group: &[u8]| group.iter().enumerate().fold(0, |byte, (k, code)| byte | code << (k * bits));
    codes.chunks(8 / bits).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Tensor;

    const TYPES: [DType; 10] = [
        DType::E4M3FN,
        DType::E4M3FNUZ,
        DType::E5M2,
        DType::E5M2FNUZ,
        DType::E8M0,
        DType::F4E2M1,
        DType::I4,
        DType::U4,
        DType::I2,
        DType::U2,
    ];

    #[test]
    fn every_code_comes_back() {
        for dtype in TYPES {
            for code in 0..=(u8::MAX >> (8 - dtype.bits())) {
                let number = decode(dtype, code);
                let back = encode(dtype, number);
                // An infinity is beyond the largest number, and one NaN stands for all.
                let same = back == code || number.is_nan() && decode(dtype, back).is_nan() || number.is_infinite();
                assert!(same, "{dtype} {code} is {number}, and that is {back}");
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_those_of_the_standard() {
        let largest = |dtype| decode(dtype, encode(dtype, 1e30));
        assert_eq!([448.0, 240.0, 57344.0, 57344.0, 6.0], [0, 1, 2, 3, 5].map(|k| largest(TYPES[k])));
        assert_eq!(rounded(DType::E4M3FN, 463.0, false), 448.0);
        assert!(rounded(DType::E4M3FN, 465.0, false).is_nan());
        assert_eq!(rounded(DType::E5M2, -1e6, false), f64::NEG_INFINITY);
        assert_eq!(decode(DType::F4E2M1, encode(DType::F4E2M1, -2.5)), -2.0);
        assert_eq!(decode(DType::E4M3FN, encode(DType::E4M3FN, 17.0)), 16.0);
        assert_eq!(decode(DType::E8M0, encode(DType::E8M0, 3.0)), 4.0);
    }

    #[test]
    fn packed_elements_stand_in_the_lowest_bits_first() {
        let four = Tensor::from_f64(DType::I4, &[3], [1.0, -2.0, 7.0]);
        assert_eq!((&*four.bytes, four.to_i64()), (&[0xe1, 0x07][..], Some(vec![1, -2, 7])));
        let two = Tensor::from_f64(DType::U2, &[5], [1.0, 2.0, 3.0, 0.0, 1.0]);
        assert_eq!((&*two.bytes, two.to_f64()), (&[0x39, 0x01][..], vec![1.0, 2.0, 3.0, 0.0, 1.0]));
    }
}
