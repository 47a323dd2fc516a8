//! What ran: a file to which every hop adds a line.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where hops write to.
pub(crate) struct Journal(PathBuf);

impl Journal {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Adds a line in one write, so that it is whole, whoever else writes.
    pub(crate) fn note(&self, number: u32, place: u32) -> std::io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.0)?;
        file.write_all(format!("{number} {place} rust\n").as_bytes())
    }
}

/// What a journal says.
pub(crate) struct Seen {
    /// Chains whose last hop ran.
    pub(crate) done: u32,
    /// Hops that ran more than once.
    pub(crate) repeated: usize,
    /// How often any hop ran.
    pub(crate) runs: usize,
}

impl Seen {
    /// Reads it. A line that is no hop of one of the chains is a mistake of the test's.
    pub(crate) fn of(path: &Path, chains: u32, hops: u32) -> Self {
        let text = std::fs::read_to_string(path).expect("a journal");
        let mut runs: HashMap<(u32, u32), u32> = HashMap::new();
        for line in text.lines() {
            let mut words = line.split(' ').map_while(|word| word.parse().ok());
            let (Some(number), Some(place)) = (words.next(), words.next()) else {
                panic!("no hop: {line:?}");
            };
            assert!(number < chains && (1..=hops).contains(&place), "{line:?}");
            *runs.entry((number, place)).or_default() += 1;
        }
        let last = runs.keys().filter(|(_, place)| *place == hops).count();
        Self {
            done: u32::try_from(last).expect("fewer than chains"),
            repeated: runs.values().filter(|count| **count > 1).count(),
            runs: runs.values().map(|count| *count as usize).sum(),
        }
    }
}
