//! Runs the targets without libFuzzer, on their seeds and on damaged copies of the seeds.
//!
//! `damage SEEDS TARGET SECONDS [NUMBER]` prints the number of inputs. An input that makes a target panic remains in
//! the file `TARGET.crash` of the working directory. `NUMBER` is the random seed; the default is the current time.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Maximum length of an input, in bytes.
const LENGTH: usize = 32 << 10;
/// Time after which an input counts as a failure.
const SLOW: Duration = Duration::from_secs(20);

/// Random numbers (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (seeds, name, seconds, number) = match arguments.as_slice() {
        [seeds, name, seconds] => (seeds, name, seconds, None),
        [seeds, name, seconds, number] => (seeds, name, seconds, Some(number)),
        _ => return usage(),
    };
    let target = qus_fuzz::TARGETS.iter().find(|(target, _)| target == name);
    let number = number.map_or_else(clock, |number| number.parse().ok());
    let (Some((_, target)), Ok(seconds), Some(number)) = (target, seconds.parse(), number) else {
        return usage();
    };
    let mut inputs: Vec<Vec<u8>> = match std::fs::read_dir(Path::new(seeds).join(name)) {
        Ok(files) => files.flatten().filter_map(|file| std::fs::read(file.path()).ok()).collect(),
        Err(error) => return fail(&format!("{seeds}/{name}: {error}")),
    };
    inputs.sort();
    if inputs.is_empty() {
        return fail(&format!("{seeds}/{name} has no seeds"));
    }
    watch(name.clone());
    let end = Instant::now() + Duration::from_secs(seconds);
    for input in &inputs {
        run(name, *target, input);
    }
    let mut random = Random(number);
    let mut count = inputs.len();
    while Instant::now() < end {
        let input = damaged(&inputs, &mut random);
        run(name, *target, &input);
        count += 1;
    }
    println!("{name}: {} seeds, {count} inputs, damage {number}", inputs.len());
    ExitCode::SUCCESS
}

fn clock() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos() & u128::from(u64::MAX)).ok()
}

fn usage() -> ExitCode {
    let names: Vec<&str> = qus_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    fail(&format!("usage: damage SEEDS TARGET SECONDS [NUMBER]\ntargets: {}", names.join(" ")))
}

fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(2)
}

/// Number of begun and ended inputs. It is odd while an input runs.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Ends the process if one input takes too long. The target cannot be interrupted otherwise.
fn watch(name: String) {
    let start = Instant::now();
    std::thread::spawn(move || {
        let mut last = (0, start);
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let begun = BEGUN.load(Ordering::Relaxed);
            if begun != last.0 {
                last = (begun, Instant::now());
            } else if begun % 2 == 1 && last.1.elapsed() > SLOW {
                eprintln!("{name}: an input takes longer than {} s: {name}.crash", SLOW.as_secs());
                std::process::exit(1);
            }
        }
    });
}

/// Runs one input. Writes it to its file first, so that the file exists even if this process dies.
fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    let path = format!("{name}.crash");
    let kept = std::fs::File::create(&path).and_then(|mut file| file.write_all(input));
    if let Err(error) = kept {
        eprintln!("{path}: {error}");
        std::process::exit(2);
    }
    BEGUN.fetch_add(1, Ordering::Relaxed);
    target(input);
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let _found_by_the_next_input = std::fs::remove_file(&path);
}

/// Returns a seed with one to eight random changes.
fn damaged(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 => flip(&mut input, at, random),
            1 => set(&mut input, at, &[0, 0xff, 0x7f, 0x80, b'0', b'/'][random.below(6)..][..1]),
            2 => set(&mut input, at, &random.next().to_le_bytes()[..=random.below(8).min(7)]),
            3 => set(&mut input, at, &u64::MAX.to_be_bytes()[..=random.below(8).min(7)]),
            4 => input.truncate(at),
            5 => drop(input.drain(at..(at + random.below(64)).min(input.len()))),
            6 => {
                let end = (at + random.below(600)).min(input.len());
                let part = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, part);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let part = &other[from..(from + random.below(600)).min(other.len())];
                input.splice(at..at, part.iter().copied());
            }
        }
    }
    input.truncate(LENGTH);
    input
}

fn flip(input: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn set(input: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in input.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}
