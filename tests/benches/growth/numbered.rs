//! A thousand tasks of which a worker registers as many as it is told. They are `growth.noop` under other names,
//! defined as `#[task]` would: that registers what it is written on in every worker of the program.

use garenne::__private::Definition;
use garenne::{Task, Worker};

use crate::worker::noop;

/// The task whose number has these digits.
struct Numbered<const A: u8, const B: u8, const C: u8>;

impl<const A: u8, const B: u8, const C: u8> Numbered<A, B, C> {
    const TEXT: [u8; 7] = [b't', b'a', b's', b'k', b'0' + A, b'0' + B, b'0' + C];
    const NAME: &'static str = match std::str::from_utf8(&Self::TEXT) {
        Ok(name) => name,
        Err(_) => panic!("a digit is less than ten"),
    };
}

impl<const A: u8, const B: u8, const C: u8> Task for Numbered<A, B, C> {
    const DEFINITION: &'static Definition = &Definition {
        name: Self::NAME,
        ..*noop::DEFINITION
    };
}

/// The name of a numbered task.
pub(crate) fn name(number: usize) -> String {
    format!("task{:03}", number % 1000)
}

type Register = fn(Worker) -> Worker;

macro_rules! for_each_digit {
    ($make:ident $(, $digit:ident)*) => {
        [
            for_each_digit!(@ $make $(, $digit)*; 0), for_each_digit!(@ $make $(, $digit)*; 1),
            for_each_digit!(@ $make $(, $digit)*; 2), for_each_digit!(@ $make $(, $digit)*; 3),
            for_each_digit!(@ $make $(, $digit)*; 4), for_each_digit!(@ $make $(, $digit)*; 5),
            for_each_digit!(@ $make $(, $digit)*; 6), for_each_digit!(@ $make $(, $digit)*; 7),
            for_each_digit!(@ $make $(, $digit)*; 8), for_each_digit!(@ $make $(, $digit)*; 9),
        ]
    };
    (@ Numbered, $a:ident, $b:ident; $c:literal) => { Worker::register::<Numbered<$a, $b, $c>> as Register };
    (@ $make:ident $(, $digit:ident)*; $last:literal) => { $make::<$($digit,)* $last>() };
}

fn ten<const A: u8, const B: u8>() -> [Register; 10] {
    for_each_digit!(Numbered, A, B)
}

fn hundred<const A: u8>() -> [[Register; 10]; 10] {
    for_each_digit!(ten, A)
}

fn thousand() -> [[[Register; 10]; 10]; 10] {
    for_each_digit!(hundred)
}

/// Has a worker know the first `count` of the tasks.
pub(crate) fn register(worker: Worker, count: usize) -> Worker {
    let all = thousand();
    let all = all.as_flattened().as_flattened().iter().take(count);
    all.fold(worker, |worker, register| register(worker))
}
