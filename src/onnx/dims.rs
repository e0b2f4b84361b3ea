//! Dimension names that are expressions: `16*H*N`, `2*H - 1`, as this crate writes them.

use super::proto::tensor_shape_proto::dimension::Value;
use super::proto::{ValueInfoProto, type_proto};
use crate::ir::Dim;
use std::collections::HashSet;

/// The names that stand alone as a dimension of some graph input. Only expressions in these are taken apart: the
/// others name a dimension that can be read from a tensor only as a whole.
#[derive(Default)]
pub(super) struct Symbols(HashSet<String>);

impl Symbols {
    pub fn of(inputs: &[ValueInfoProto]) -> Symbols {
        let mut names = HashSet::new();
        for info in inputs {
            if let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
                for dim in t.shape.iter().flat_map(|s| &s.dim) {
                    if let Some(Value::DimParam(name)) = &dim.value {
                        names.insert(name.clone());
                    }
                }
            }
        }
        Symbols(names)
    }

    pub fn dim(&self, text: &str) -> Dim {
        // Longer texts are names; the arithmetic is quadratic in them.
        let expression = if text.len() <= 256 { self.sum(text) } else { None };
        match expression {
            // Only what prints as it was written is an expression and not a name with odd characters.
            Some(dim) if dim.to_string() == text => dim,
            _ => Dim::symbol(text),
        }
    }

    /// `a*b + 2*c - 1`
    fn sum(&self, text: &str) -> Option<Dim> {
        let mut total: Option<Dim> = None;
        let mut minus = false;
        for part in top_level(text)? {
            match part {
                Part::Plus => minus = false,
                Part::Minus => minus = true,
                Part::Term(term) => {
                    let (term, negative) = match term.strip_prefix('-') {
                        Some(rest) => (rest, true),
                        None => (term, false),
                    };
                    let mut product = self.product(term)?;
                    if minus != negative {
                        product = Dim::Fixed(-1) * product;
                    }
                    total = Some(match total {
                        Some(sum) => sum + product,
                        None => product,
                    });
                }
            }
        }
        total
    }

    fn product(&self, term: &str) -> Option<Dim> {
        split_at_depth_0(term, '*')?.into_iter().try_fold(Dim::Fixed(1), |product, factor| {
            let factor = match factor.parse::<i64>() {
                Ok(n) => Dim::Fixed(n),
                Err(_) if self.0.contains(factor) || is_function(factor) => Dim::symbol(factor),
                Err(_) => return None,
            };
            Some(product * factor)
        })
    }
}

/// What has no polynomial is one symbol as a whole.
fn is_function(factor: &str) -> bool {
    ["floor(", "min("].iter().any(|name| factor.starts_with(name))
}

enum Part<'a> {
    Term(&'a str),
    Plus,
    Minus,
}

/// Terms and the ` + ` and ` - ` between them, those inside parentheses left alone.
fn top_level(text: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    for (i, word) in split_at_depth_0(text, ' ')?.into_iter().enumerate() {
        parts.push(match (i % 2, word) {
            (1, "+") => Part::Plus,
            (1, "-") => Part::Minus,
            (0, term) if !term.is_empty() => Part::Term(term),
            _ => return None,
        });
    }
    Some(parts)
}

fn split_at_depth_0(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0usize, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            c if c == separator && depth == 0 => {
                parts.push(&text[from..i]);
                from = i + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (depth == 0).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_in_known_names_are_taken_apart() {
        let symbols = Symbols(["H", "N", "batch-size", "a b"].map(String::from).into());
        let (h, n) = (Dim::symbol("H"), Dim::symbol("N"));
        assert_eq!(symbols.dim("16*H*N"), Dim::Fixed(16) * h.clone() * n.clone());
        assert_eq!(symbols.dim("2*H - 1"), Dim::Fixed(2) * h.clone() - Dim::Fixed(1));
        assert_eq!(symbols.dim("-H + N"), n - h.clone());
        assert_eq!(symbols.dim("2*floor((H - 1)/2)"), Dim::Fixed(2) * (h - Dim::Fixed(1)).div_floor(2));
        assert_eq!(symbols.dim("N*min(H, 9)"), Dim::symbol("N") * Dim::symbol("min(H, 9)"));
        for whole in ["batch-size", "a b", "2*K", "H+1", "H - ", "((H", "H)", "", "*", "9223372036854775808"] {
            assert_eq!(symbols.dim(whole).as_symbol(), Some(whole));
        }
    }
}
