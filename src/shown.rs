//! Text out of files, made safe to show: names can hold commands to a terminal, or characters that hide and reorder others.

/// The longest line for people; of a longer one the beginning is shown.
const LINE: usize = 4000;

/// Control characters, and those that reorder or hide text on a terminal, come as `\u{…}`.
pub fn push(out: &mut String, c: char) {
    if is_hidden(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
}

/// Whether a terminal would act on the character instead of showing it.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// In one line.
pub fn line(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|c| push(&mut out, c));
    out
}

/// In several lines.
pub fn lines(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|c| if c == '\n' { out.push(c) } else { push(&mut out, c) });
    out
}

/// Several lines, each no longer than a reader can take in.
pub fn short_lines(text: &str) -> String {
    let mut out = String::new();
    for (i, text) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let end = text.char_indices().nth(LINE).map_or(text.len(), |(at, _)| at);
        text[..end].chars().for_each(|c| push(&mut out, c));
        if end < text.len() {
            out.push_str(&format!("… ({} more characters)", text[end..].chars().count()));
        }
    }
    out
}

/// A JSON document in which no string holds such a character as it is.
pub fn json(document: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in format!("{document:#}").chars() {
        match c {
            // JSON's own layout.
            '\n' => out.push('\n'),
            c if is_hidden(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")))
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_reaches_the_terminal() {
        let text = "a\u{1b}[31m\u{9b}b\u{202e}c\r\n\u{7f}";
        assert_eq!(super::line(text), "a\\u{1b}[31m\\u{9b}b\\u{202e}c\\u{d}\\u{a}\\u{7f}");
        assert_eq!(super::lines(text), "a\\u{1b}[31m\\u{9b}b\\u{202e}c\\u{d}\n\\u{7f}");
        assert_eq!(super::short_lines(&"x".repeat(4002)), format!("{}… (2 more characters)", "x".repeat(4000)));
        let document = serde_json::json!({ "name": text });
        assert!(super::json(&document).chars().all(|c| c == '\n' || !super::is_hidden(c)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&super::json(&document)).expect("JSON"), document);
    }
}
