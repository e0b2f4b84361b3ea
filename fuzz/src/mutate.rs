//! Changes of a seed: the same ones for the same number.

/// A few random changes, as fuzzers make them: bits, interesting numbers, cuts, repeats, parts of another seed.
pub fn mutate(seed: &[u8], other: &[u8], number: u64) -> Vec<u8> {
    let mut numbers = Numbers(number);
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        change(&mut bytes, other, &mut numbers);
    }
    bytes
}

const INTERESTING: [u8; 10] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0xfe, b'"', b'\n', b'-', 0x10];

fn change(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    let len = bytes.len();
    if len == 0 {
        bytes.extend(other);
        return;
    }
    let at = numbers.below(len);
    let until = at + 1 + numbers.below((len - at).min(16));
    match numbers.below(8) {
        0 | 1 => bytes[at] ^= 1 << numbers.below(8),
        2 => bytes[at] = INTERESTING[numbers.below(INTERESTING.len())],
        3 => bytes[at] = numbers.below(256) as u8,
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..until.min(len))),
        6 => {
            let part = bytes[at..until.min(len)].to_vec();
            bytes.splice(at..at, part);
        }
        _ if other.is_empty() => bytes[at] = 0,
        _ => {
            let from = numbers.below(other.len());
            let part = other[from..other.len().min(from + 64)].to_vec();
            bytes.splice(at..(at + part.len()).min(len), part);
        }
    }
}

/// splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}
