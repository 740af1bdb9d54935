//! Entry points of the fuzz targets for the files of a store.

use super::disk;

/// Reads the bytes of a head and of a journal, as they are and with right checksums. Returns whether any was accepted.
///
/// # Panics
/// If the decoded value differs after it was encoded and decoded again.
pub fn read_files(bytes: &[u8]) -> bool {
    let heads = [bytes.to_vec(), disk::head::with_checksum(bytes)];
    let accepted_heads = heads.iter().filter(|head| disk::head::is_stable(head)).count();
    let journals = [bytes.to_vec(), disk::journal::with_checksums(bytes)];
    let accepted_journals =
        journals.iter().filter(|journal| disk::journal::is_stable(journal)).count();
    accepted_heads + accepted_journals > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u64) -> Vec<u8> {
        n.to_le_bytes().to_vec()
    }

    fn text(text: &str) -> Vec<u8> {
        [number(text.len() as u64), text.as_bytes().to_vec()].concat()
    }

    /// The content of a head, and records of a journal.
    fn inputs() -> [Vec<u8>; 2] {
        let numbers = |ns: &[u64]| ns.iter().flat_map(|n| number(*n)).collect::<Vec<_>>();
        let head =
            [numbers(&[7, 8, 7]), text("http://a/"), numbers(&[200, 1, 2, 3, 4, 5, 6, 9, 1])];
        let head = [head.concat(), text("accept"), text("-\n"), number(1), text("g"), number(2)];
        let fields = [text("x"), text("1"), text("x"), text("2")].concat();
        let record =
            |kind, a: &str, b: &str| [numbers(&[3, 1, 5, kind]), text(a), text(b)].concat();
        let records = [record(0, "", ""), record(1, "http://a/", ""), record(2, "g", "http://a")];
        [[head.concat(), fields].concat(), records.join(&b'\n')]
    }

    #[test]
    fn changed_files_are_refused_or_read_as_they_are_written_again() {
        let (mut accepted, mut random) = (0, 1_u64);
        for input in inputs() {
            assert!(read_files(&input));
            for _ in 0..300 {
                let mut bytes = input.clone();
                for _ in 0..2 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = usize::try_from(random >> 32).unwrap() % bytes.len();
                    match random % 8 {
                        0 => bytes.truncate(at + 1),
                        1 => bytes.insert(at, b'a'),
                        2 => drop(bytes.remove(at)),
                        _ => bytes[at] ^= 1 << (random % 7),
                    }
                }
                accepted += usize::from(read_files(&bytes));
            }
        }
        assert!((10..500).contains(&accepted), "{accepted}");
    }
}
