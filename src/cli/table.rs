//! Tables in plain text.

use crate::shown;

/// Rows under a header, columns two spaces apart; columns whose cells are all numbers stand to the right.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |s: &str| s.chars().count();
    let cell = |row: &Vec<String>, c: usize| row.get(c).map(|text| short(text)).unwrap_or_default();
    let columns = header.len();
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|row| width(&cell(row, c))).chain([width(header[c])]).max().unwrap_or(0))
        .collect();
    let numeric: Vec<bool> = (0..columns)
        .map(|c| rows.iter().all(|row| cell(row, c).starts_with(|x: char| x.is_ascii_digit() || x == '-')))
        .collect();
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(c, text)| {
                let room = " ".repeat(widths[c].saturating_sub(width(text)));
                if numeric[c] { format!("{room}{text}") } else { format!("{text}{room}") }
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let rule = widths.iter().map(|&w| "─".repeat(w)).collect::<Vec<_>>().join("  ");
    let head = line(header.iter().map(|h| h.to_string()).collect());
    let body: String = rows.iter().map(|row| line((0..columns).map(|c| cell(row, c)).collect())).collect();
    format!("{head}{rule}\n{body}")
}

/// The longest cell, in characters; of a longer one the beginning and the end are shown.
const CELL: usize = 240;

/// A cell in one line.
fn short(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let half = CELL / 2;
    match chars.as_slice() {
        long if long.len() > CELL => {
            let (head, tail) = (&long[..half], &long[long.len() - half..]);
            shown::line(&format!("{}…{}", head.iter().collect::<String>(), tail.iter().collect::<String>()))
        }
        _ => shown::line(text),
    }
}

/// `1.25 M`: a count with a metric prefix.
pub(super) fn metric(value: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(size, _)| value >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", value / size),
        None => format!("{value:.0}"),
    }
}

/// So many significant digits, without an exponent where the number is neither tiny nor huge.
pub(super) fn significant(value: f64, digits: usize) -> String {
    let before = digits as i32 - 1;
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    match value.abs().log10().floor() as i32 {
        power @ -4..=5 => format!("{value:.*}", usize::try_from(before - power).unwrap_or(0)),
        _ => format!("{value:.*e}", before as usize),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_align() {
        let rows = vec![vec!["fc".to_string(), "10".to_string()], vec!["encoder.out".to_string(), "512".to_string()]];
        let text = super::table(&["layer", "m"], &rows);
        assert_eq!(text, "layer          m\n───────────  ───\nfc            10\nencoder.out  512\n");
    }
}
