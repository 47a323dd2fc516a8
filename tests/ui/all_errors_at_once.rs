#![allow(unused_variables)]

use garenne::task;
use std::marker::PhantomData;

#[task(retrys = 3, timeout = 30)]
unsafe fn wrong<T>(name: &str, (a, b): (i64, i64), kind: PhantomData<T>, db: &mut u8) -> &'static str {
    ""
}

fn main() {
    let _call: garenne::Call<String> = wrong::call::<u8>(String::new(), (1, 2), PhantomData);
    let _function = wrong::<u8>;
}
