//! Which bytes may stand where, and finding the first that may not.

/// Bytes of a token (RFC 9110 section 5.6.2).
static TOKEN: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = matches!(b as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        b += 1;
    }
    t
};

/// Bytes of a host: a registered name without percent signs, which no host of the web has and
/// which readers take differently (RFC 3986 section 3.2.2), or an IPv4 address.
static HOST: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = matches!(b as u8,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        b += 1;
    }
    t
};

/// How many bytes at the front belong to a host's name.
pub(super) fn host_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !HOST[usize::from(b)]).unwrap_or(bytes.len())
}

/// How many bytes at the front belong to a token.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !TOKEN[usize::from(b)]).unwrap_or(bytes.len())
}

/// May all these bytes stand in a field value (RFC 9110 section 5.5)? Controls may not, but for
/// HTAB; so no CR, LF or NUL passes.
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    // Eight bytes at a time: a word passes if no byte is below 0x20 or equal to 0x7f. Words with
    // a suspect, a HTAB included, are looked at byte by byte.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|w| no_control(u64::from_ne_bytes(*w)) || w.iter().all(|&b| value_byte(b)))
        && rest.iter().all(|&b| value_byte(b))
}

/// May all these bytes stand in a request target? Visible ASCII only, and no fragment.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| matches!(b, 0x21..=0x7e) && b != b'#')
}

/// The bytes without the optional white space around them (RFC 9110 section 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn value_byte(b: u8) -> bool {
    (b >= 0x20 && b != 0x7f) || b == b'\t'
}

/// No byte of the word is below 0x20 or equal to 0x7f. It may say no to a word that is fine (a
/// borrow runs into the next byte), never yes to one that is not.
fn no_control(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES * 0x80;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    let not_del = word ^ (ONES * 0x7f);
    let del = not_del.wrapping_sub(ONES) & !not_del & HIGH;
    below_space | del == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_alike_at_every_place_of_a_word() {
        for b in 0..=255u8 {
            let expected = b == b'\t' || (b >= 0x20 && b != 0x7f);
            for place in 0..20 {
                for filler in [b'a', 0x20, 0x80, 0xff, 0x21] {
                    let mut v = [filler; 20];
                    v[place] = b;
                    assert_eq!(is_field_value(&v), expected, "{b:#x} at {place}");
                }
            }
        }
    }

    #[test]
    fn tokens_end_at_the_first_delimiter() {
        assert_eq!(token_len(b"Content-Length: 5"), 14);
        assert_eq!(token_len(b": x"), 0);
        assert_eq!(token_len(b"a\x80"), 1);
        assert_eq!(token_len(b"a_b~"), 4);
    }

    #[test]
    fn trim_takes_spaces_and_tabs_only() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b" \x0b "), b"\x0b");
        assert_eq!(trim(b"  "), b"");
    }
}
