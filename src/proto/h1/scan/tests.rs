use std::cell::Cell;

use super::*;

thread_local! {
    pub(super) static PORTABLE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a function as on a processor without SIMD.
pub(in super::super) fn portable(run: impl FnOnce()) {
    PORTABLE.set(true);
    run();
    PORTABLE.set(false);
}

#[test]
fn byte_classes_are_the_same_at_every_position_of_a_word() {
    for b in 0..=255u8 {
        let value = b == b'\t' || (b >= 0x20 && b != 0x7f);
        let target = (0x21..=0x7e).contains(&b) && b != b'#' && b != b'\\';
        for position in 0..20 {
            for filler in [b'a', 0x20, 0x80, 0xff, 0x21] {
                let mut v = [filler; 20];
                v[position] = b;
                assert_eq!(is_field_value(&v), value, "{b:#x} at {position}");
                let fine = target && (0x21..=0x7e).contains(&filler);
                assert_eq!(is_target(&v), fine, "{b:#x} at {position}");
            }
        }
    }
}

#[test]
fn target_accepts_backslash_only_after_question_mark() {
    for at in 0..20 {
        for query in 0..20 {
            let mut target = [b'a'; 20];
            target[query] = b'?';
            target[at] = b'\\';
            assert_eq!(is_target(&target), query < at, "{}", target.escape_ascii());
        }
    }
    assert!(!is_target(b"/?\\#") && !is_target(b"/?\\\x80"));
}

#[test]
fn token_ends_at_its_first_delimiter() {
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

#[test]
fn portable_block_agrees_with_the_class_tables() {
    let input: Vec<u8> = (0..=255).collect();
    for at in [0, 64, 128, 192, 250] {
        let masks = Portable.block(&input, at);
        let here = &input[at..input.len().min(at + BLOCK)];
        for (i, &b) in here.iter().enumerate() {
            assert_eq!(masks.lf >> i & 1 == 1, b == b'\n');
            assert_eq!(masks.cr >> i & 1 == 1, b == b'\r');
            assert_eq!(masks.delimiters >> i & 1 == 1, token_len(&[b]) == 0, "{b:#x}");
        }
        assert_eq!(masks.controls != 0, at <= 64);
        assert_eq!(masks.delimiters.checked_shr(here.len() as u32).unwrap_or(0), 0);
    }
}

/// Both implementations agree on every byte at every position, for lengths that cover each way to load
/// the last block.
#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_agrees_with_portable_form() {
    let Some(avx2) = x86::Avx2::detect() else {
        return; // nothing to compare; the portable implementation is tested above
    };
    let places = if cfg!(miri) { 7 } else { 1 };
    for len in [1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 191, 300] {
        for position in (0..len).step_by(places) {
            for b in 0..=255u8 {
                let mut input = vec![b'a'; len];
                input[position] = b;
                for at in [0, len / 2, len - 1, position] {
                    let (ours, theirs) = (avx2.block(&input, at), Portable.block(&input, at));
                    let same = |m: Masks| (m.lf, m.cr, m.delimiters);
                    assert_eq!(same(ours), same(theirs), "{b:#x} at {position} of {len} from {at}");
                    // It may report a control byte before the block, and must report those inside.
                    assert!(ours.controls != 0 || theirs.controls == 0);
                    assert!(theirs.controls != 0 || ours.controls == 0 || position < at);
                    let plain = avx2.plain_len(&input, at);
                    assert!(plain <= len - at && plain % 128 == 0);
                    assert!(input[at..at + plain].iter().all(|&b| b >= 0x20 && b != 0x7f));
                }
            }
        }
    }
}

/// The same for random bytes, several of them special, at every position of inputs of every length.
#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_agrees_with_portable_form_on_any_bytes_of_any_length() {
    const ODD: &[u8] = b"\r\n\t :az\0\x1f\x20\x7f\x80\xff";
    let Some(avx2) = x86::Avx2::detect() else { return };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64; // xorshift64
    let step = if cfg!(miri) { 37 } else { 1 };
    for (len, odd_ones) in (1..=200).step_by(step).flat_map(|n| [1, 3, 30, 300].map(|m| (n, m))) {
        let mut input = vec![b'a'; len];
        for byte in &mut input {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state.is_multiple_of(odd_ones) {
                *byte = ODD[(state >> 32) as usize % ODD.len()];
            }
        }
        for at in 0..len {
            let (ours, theirs) = (avx2.block(&input, at), Portable.block(&input, at));
            let same = |m: Masks| (m.lf, m.cr, m.delimiters);
            assert_eq!(same(ours), same(theirs), "from {at} of {input:?}");
            assert!(ours.controls != 0 || theirs.controls == 0, "from {at} of {input:?}");
            let whole = at + BLOCK <= len;
            assert!(!whole || ours.controls == 0 || theirs.controls != 0, "{at} of {input:?}");
            for plain in [avx2.plain_len(&input, at), Portable.plain_len(&input, at)] {
                assert!(input[at..at + plain].iter().all(|&b| b >= 0x20 && b != 0x7f));
            }
        }
    }
}

#[test]
fn plain_len_skips_plain_bytes_and_stops_at_controls() {
    for len in [0, 7, 8, 100, 1_000] {
        let mut input = vec![0xc3; len + 1];
        assert!(Portable.plain_len(&input, 1) <= len);
        assert!(len - Portable.plain_len(&input, 1) < 8);
        for b in [0, b'\r', b'\n', 0x1f, 0x7f] {
            input[len] = b;
            assert!(Portable.plain_len(&input, 0) <= len, "{b:#x}");
        }
    }
}

#[test]
fn append_field_writes_any_lengths_into_any_capacity() {
    let text: Vec<u8> = (b'!'..=b'~').collect();
    let step = if cfg!(miri) { 7 } else { 1 };
    for name in (0..text.len()).step_by(step) {
        for value in [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, name] {
            for room in [0, name + value + 3, 300] {
                let mut out = BytesMut::with_capacity(room);
                let (name, value) = (&text[..name], &text[text.len() - value..]);
                append_field(name, value, &mut out);
                append_field(b"d", b"", &mut out);
                assert_eq!(out, [name, b": ", value, b"\r\nd: \r\n"].concat());
            }
        }
    }
}
