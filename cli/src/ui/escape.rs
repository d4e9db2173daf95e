//! What is printed harms no terminal: names come from files, requests and archives of anybody.

use std::fmt::Write;

/// Whether a terminal could do something else with a character than show it: control characters,
/// and those that turn the direction of the text around (Unicode Standard Annex 9).
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text for one line: every harmful character becomes `\u{…}`, a newline too.
pub fn one_line(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_harmful(c) {
            true => escaped.extend(c.escape_unicode()),
            false => escaped.push(c),
        }
    }
    escaped
}

/// A text that may have several lines. All but the first are indented: none of them can be taken
/// for a message of its own.
pub fn lines(text: &str) -> String {
    let lines = text.trim_end_matches('\n').split('\n').map(|line| one_line(&detabbed(line)));
    lines.collect::<Vec<_>>().join("\n  ")
}

/// Tabs are as good as spaces.
fn detabbed(line: &str) -> String {
    line.replace('\t', "    ")
}

/// JSON in which every harmful character is escaped, as JSON escapes it.
pub fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // Between values JSON has newlines; within strings it has escaped them already.
        if c == '\n' || !is_harmful(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string can't fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_but_text() {
        let hostile = "a\u{1b}[2Jb\u{9b}31m\r\u{7f}\u{202e}c\nwasmfs: all is well";
        let shown = one_line(hostile);
        assert!(!shown.chars().any(is_harmful), "{shown}");
        assert_eq!(one_line("a\u{1b}[2J\u{9b}"), "a\\u{1b}[2J\\u{9b}");
        assert_eq!(one_line("ü 中/x.cwasm"), "ü 中/x.cwasm");
        assert_eq!(lines("one\n\ttwo\u{7}\n"), "one\n      two\\u{7}");
        assert!(!lines(hostile).lines().skip(1).any(|line| line.starts_with("wasmfs:")));
    }

    #[test]
    fn json_says_the_same_escaped() {
        let hostile = "a\u{1b}\u{9b}\u{7f}\u{202e}\n\u{1f600}";
        let text = json(&serde_json::to_string_pretty(&[hostile]).unwrap_or_default());
        assert!(!text.chars().any(|c| c != '\n' && is_harmful(c)), "{text}");
        let read: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(read, [hostile]);
    }
}
