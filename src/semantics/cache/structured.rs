//! Dictionaries and lists of structured fields (RFC 9651), limited to the types that caching fields use.

use http::{HeaderMap, HeaderName};

/// The value of a member, without its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Integer(i64),
    Boolean(bool),
    Text(String),
    /// An inner list of strings.
    Texts(Vec<String>),
    /// A token, decimal, byte sequence or another inner list, which no directive has as its value.
    Other,
}

/// Parses a dictionary; `None` if any part of it is malformed or the field is absent. The last one of several members with the
/// same key applies.
pub(super) fn dictionary(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<(String, Item)>> {
    let text = joined(headers, name)?;
    let mut input = Input(&text);
    let mut members: Vec<(String, Item)> = Vec::new();
    input.skip_spaces();
    while !input.is_empty() {
        let key = input.key()?;
        let value = if input.take(b'=') { input.item()? } else { Item::Boolean(true) };
        input.parameters()?;
        members.retain(|(known, _)| *known != key);
        members.push((key, value));
        input.next_member()?;
    }
    Some(members)
}

/// Parses a list of strings; `None` if it is malformed, has an item of another type, or the field is absent.
pub(super) fn strings(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let text = joined(headers, name)?;
    let mut input = Input(&text);
    let mut members = Vec::new();
    input.skip_spaces();
    while !input.is_empty() {
        let Item::Text(text) = input.item()? else { return None };
        input.parameters()?;
        members.push(text);
        input.next_member()?;
    }
    Some(members)
}

/// The lines of a field as one (RFC 9651 section 4.2).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    if lines.is_empty() { None } else { Some(lines.join(&b", "[..])) }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// Takes bytes while `is_part` holds.
    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> &[u8] {
        let end = self.0.iter().position(|&b| !is_part(b)).unwrap_or(self.0.len());
        let (part, rest) = self.0.split_at(end);
        self.0 = rest;
        part
    }

    fn skip_spaces(&mut self) {
        self.take_while(|b| matches!(b, b' ' | b'\t'));
    }

    /// Moves to the next member, or to the end. A comma at the end is malformed.
    fn next_member(&mut self) -> Option<()> {
        self.skip_spaces();
        if self.is_empty() {
            return Some(());
        }
        let has_comma = self.take(b',');
        self.skip_spaces();
        (has_comma && !self.is_empty()).then_some(())
    }

    fn key(&mut self) -> Option<String> {
        if !matches!(self.0.first(), Some(b'a'..=b'z' | b'*')) {
            return None;
        }
        let key = self
            .take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b));
        String::from_utf8(key.to_vec()).ok()
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.skip_spaces();
            self.key()?;
            if self.take(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<Item> {
        if !self.take(b'(') {
            return self.bare_item();
        }
        let mut texts = Some(Vec::new());
        loop {
            self.skip_spaces();
            if self.take(b')') {
                return Some(texts.map_or(Item::Other, Item::Texts));
            }
            match (self.bare_item()?, &mut texts) {
                (Item::Text(text), Some(texts)) => texts.push(text),
                _ => texts = None,
            }
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn bare_item(&mut self) -> Option<Item> {
        match *self.0.first()? {
            b'?' => self.boolean(),
            b'"' => self.text(),
            b'-' | b'0'..=b'9' => self.number(),
            b':' => {
                self.take(b':');
                self.take_while(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                self.take(b':').then_some(Item::Other)
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'*' => {
                self.take_while(|b| super::directives::is_token_byte(b) || b":/".contains(&b));
                Some(Item::Other)
            }
            _ => None,
        }
    }

    fn boolean(&mut self) -> Option<Item> {
        let value = match self.0 {
            [b'?', b'1', ..] => true,
            [b'?', b'0', ..] => false,
            _ => return None,
        };
        self.0 = &self.0[2..];
        Some(Item::Boolean(value))
    }

    fn text(&mut self) -> Option<Item> {
        self.take(b'"');
        let mut text = String::new();
        loop {
            let (&b, rest) = self.0.split_first()?;
            self.0 = rest;
            match b {
                b'"' => return Some(Item::Text(text)),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    if !matches!(escaped, b'"' | b'\\') {
                        return None;
                    }
                    text.push(char::from(escaped));
                }
                0x20..=0x7e => text.push(char::from(b)),
                _ => return None,
            }
        }
    }

    /// At most 15 digits; a decimal has at most 12 before and three behind its point.
    fn number(&mut self) -> Option<Item> {
        let is_negative = self.take(b'-');
        let digits = self.take_while(|b| b.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        let value = digits.iter().fold(0_i64, |n, b| n * 10 + i64::from(b - b'0'));
        let len = digits.len();
        if self.take(b'.') {
            let fraction = self.take_while(|b| b.is_ascii_digit()).len();
            return (len <= 12 && (1..=3).contains(&fraction)).then_some(Item::Other);
        }
        Some(Item::Integer(if is_negative { -value } else { value }))
    }
}
