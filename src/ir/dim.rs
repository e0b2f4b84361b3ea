//! Symbolic dimensions: integers, or polynomials with integer coefficients in named symbols.
//!
//! The normal form makes equal dimensions compare equal: a 3×3 convolution with padding 1 maps `H` to `H`, and
//! flattening `[N, C, H, W]` gives `C*H*W`. A quotient that does not divide exactly is an opaque symbol named after
//! its text, e.g. `floor((H - 1)/2)`.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    Fixed(i64),
    /// Never a constant: those are `Fixed`.
    Symbol(Arc<Poly>),
}

type Monomial = Vec<Arc<str>>;

/// `Σ coefficient · Π symbols`, no zero coefficients, symbols of a monomial sorted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Poly(BTreeMap<Monomial, i64>);

impl Poly {
    pub fn terms(&self) -> impl Iterator<Item = (&[Arc<str>], i64)> {
        self.0.iter().map(|(monomial, &c)| (monomial.as_slice(), c))
    }

    fn insert(&mut self, monomial: Monomial, c: i64) {
        let slot = self.0.entry(monomial).or_insert(0);
        *slot = slot.saturating_add(c);
    }

    fn into_dim(mut self) -> Dim {
        self.0.retain(|_, c| *c != 0);
        match self.0.len() {
            0 => Dim::Fixed(0),
            1 if self.0.contains_key(&Vec::new()) => Dim::Fixed(self.0[&Vec::new()]),
            _ if self.is_long() => opaque(&self),
            _ => Dim::Symbol(Arc::new(self)),
        }
    }

    /// Whether arithmetic with it would take long: expressions can double with every operator of a model.
    fn is_long(&self) -> bool {
        self.0.len() > TERM_LIMIT || self.0.keys().any(|symbols| symbols.len() > FACTOR_LIMIT)
    }
}

/// More terms than this a dimension does not have, nor a term more factors: beyond it is one symbol of its own.
const TERM_LIMIT: usize = 64;
const FACTOR_LIMIT: usize = 16;
/// The longest name of a symbol, in bytes.
const NAME_LIMIT: usize = 1024;

/// A symbol in place of something long; the same for equal ones. `?` says that nothing is known of it.
fn opaque(what: &impl Hash) -> Dim {
    // Unlike the standard library's tables, this hasher starts from the same state in every process.
    let mut hash = std::hash::DefaultHasher::new();
    what.hash(&mut hash);
    Dim::symbol(&format!("?{:016x}", hash.finish()))
}

impl Dim {
    pub fn symbol(name: &str) -> Dim {
        if name.len() > NAME_LIMIT {
            return opaque(&name);
        }
        Poly(BTreeMap::from([(vec![Arc::from(name)], 1)])).into_dim()
    }

    pub fn fixed(&self) -> Option<i64> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(_) => None,
        }
    }

    /// The terms with symbols, where there are any.
    pub fn without_constant(&self) -> Option<Dim> {
        let Dim::Symbol(poly) = self else { return None };
        let mut rest = (**poly).clone();
        rest.0.remove(&Vec::new());
        Some(rest.into_dim())
    }

    pub fn is_one(&self) -> bool {
        *self == Dim::Fixed(1)
    }

    /// The name, where the dimension is one symbol and nothing else.
    pub fn as_symbol(&self) -> Option<&str> {
        match self {
            Dim::Symbol(p) if p.0.len() == 1 => match p.0.iter().next() {
                Some((m, 1)) if m.len() == 1 => Some(&m[0]),
                _ => None,
            },
            _ => None,
        }
    }

    /// The number it is where `symbol` gives the symbols' values.
    pub fn evaluate(&self, symbol: &dyn Fn(&str) -> i64) -> i64 {
        match self {
            Dim::Fixed(n) => *n,
            Dim::Symbol(poly) => {
                let term = |(m, c): (&Monomial, &i64)| m.iter().fold(*c, |p, s| p.saturating_mul(symbol(s)));
                poly.0.iter().map(term).fold(0, i64::saturating_add)
            }
        }
    }

    fn poly(&self) -> Poly {
        match self {
            Dim::Fixed(n) => Poly(BTreeMap::from([(Vec::new(), *n)])),
            Dim::Symbol(p) => (**p).clone(),
        }
    }

    /// The largest number in it, without its sign.
    pub fn magnitude(&self) -> u64 {
        match self {
            Dim::Fixed(n) => n.unsigned_abs(),
            Dim::Symbol(poly) => poly.0.values().map(|c| c.unsigned_abs()).max().unwrap_or(0),
        }
    }

    /// `self / by` where it divides term by term (`by` a single term).
    pub fn div_exact(&self, by: &Dim) -> Option<Dim> {
        if self == by {
            return Some(Dim::Fixed(1));
        }
        let divisor = by.poly();
        let mut terms = divisor.0.iter();
        let (Some((monomial, &c)), None) = (terms.next(), terms.next()) else { return None };
        if c == 0 {
            return None;
        }
        let mut quotient = Poly::default();
        for (m, &k) in &self.poly().0 {
            let mut rest = m.clone();
            for symbol in monomial {
                let at = rest.iter().position(|s| s == symbol)?;
                rest.remove(at);
            }
            if k.checked_rem(c) != Some(0) {
                return None;
            }
            quotient.insert(rest, k / c);
        }
        Some(quotient.into_dim())
    }

    /// `⌊self / by⌋`
    pub fn div_floor(&self, by: i64) -> Dim {
        match self {
            Dim::Fixed(n) if by != 0 => Dim::Fixed(n.checked_div_euclid(by).unwrap_or(i64::MAX)),
            // Whole multiples leave the floor: ⌊(2H + 3)/2⌋ = H + 1.
            _ => {
                let poly = self.poly();
                let constant = poly.0.get(&Vec::new()).copied().unwrap_or(0);
                let rest = self.clone() - Dim::Fixed(constant);
                match rest.div_exact(&Dim::Fixed(by)) {
                    Some(exact) => exact + Dim::Fixed(constant.checked_div_euclid(by).unwrap_or(i64::MAX)),
                    None => Dim::symbol(&format!("floor(({self})/{by})")),
                }
            }
        }
    }

    /// `⌈self / by⌉`
    pub fn div_ceil(&self, by: i64) -> Dim {
        (self.clone() + Dim::Fixed(by.saturating_sub(1))).div_floor(by)
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::Fixed(n)
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl Add for Dim {
    type Output = Dim;
    fn add(self, other: Dim) -> Dim {
        match (&self, &other) {
            (Dim::Fixed(a), Dim::Fixed(b)) => return Dim::Fixed(a.saturating_add(*b)),
            (Dim::Fixed(0), _) => return other,
            (_, Dim::Fixed(0)) => return self,
            _ => {}
        }
        let mut sum = self.poly();
        for (m, &c) in &other.poly().0 {
            sum.insert(m.clone(), c);
        }
        sum.into_dim()
    }
}

impl Sub for Dim {
    type Output = Dim;
    fn sub(self, other: Dim) -> Dim {
        self + other * Dim::Fixed(-1)
    }
}

impl Mul for Dim {
    type Output = Dim;
    fn mul(self, other: Dim) -> Dim {
        match (&self, &other) {
            (Dim::Fixed(a), Dim::Fixed(b)) => return Dim::Fixed(a.saturating_mul(*b)),
            (Dim::Fixed(1), _) => return other,
            (_, Dim::Fixed(1)) => return self,
            _ => {}
        }
        let (a, b) = (self.poly(), other.poly());
        let mut product = Poly::default();
        for (m, &c) in &a.0 {
            for (n, &k) in &b.0 {
                let mut monomial: Monomial = m.iter().chain(n).cloned().collect();
                monomial.sort();
                product.insert(monomial, c.saturating_mul(k));
            }
        }
        product.into_dim()
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let poly = match self {
            Dim::Fixed(n) => return write!(f, "{n}"),
            Dim::Symbol(p) => p,
        };
        // Constants sort first in the map; they read better at the end.
        let constant = poly.0.iter().filter(|(m, _)| m.is_empty());
        for (i, (m, &c)) in poly.0.iter().filter(|(m, _)| !m.is_empty()).chain(constant).enumerate() {
            let sign = match (i, c < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            };
            let size = c.unsigned_abs();
            match (m.is_empty(), size) {
                (true, _) => write!(f, "{sign}{size}")?,
                (false, 1) => write!(f, "{sign}{}", m.join("*"))?,
                (false, _) => write!(f, "{sign}{size}*{}", m.join("*"))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_dimensions_have_one_form() {
        let h = Dim::symbol("H");
        let same = h.clone() + Dim::Fixed(2) - Dim::Fixed(3) + Dim::Fixed(1);
        assert_eq!(same, h);
        let flat = Dim::symbol("N") * Dim::Fixed(16) * h.clone();
        assert_eq!(flat.to_string(), "16*H*N");
        assert_eq!(flat.div_exact(&Dim::Fixed(4)).unwrap().to_string(), "4*H*N");
        assert_eq!((h.clone() - Dim::Fixed(1)).div_floor(2).to_string(), "floor((H - 1)/2)");
        assert_eq!((h.clone() * Dim::Fixed(2)).div_floor(2), h);
        assert_eq!((h.clone() * Dim::Fixed(2) + Dim::Fixed(3)).div_floor(2).to_string(), "H + 1");
        assert_eq!(h.clone() - h, Dim::Fixed(0));
    }
}
