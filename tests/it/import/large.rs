//! Files of more rows than are in memory at once, and imports that end early.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tenancy::cli::client::Input;
use tenancy::cli::import;
use tokio_util::sync::CancellationToken;

use super::{Files, command, imported, people, records};
use crate::harness::{World, eventually};

/// A user and a membership a row, in three organizations by turns.
fn rows(people: std::ops::Range<usize>) -> String {
    let row = |number: usize| {
        let organization = ["one", "two", "three"][number % 3];
        format!("user,,u{number}@example.com,U,\nmember,{organization},u{number}@example.com,,viewer\n")
    };
    "type,organization,email,display_name,role\n".to_owned() + &people.map(row).collect::<String>()
}

async fn three(world: &World) {
    for slug in ["one", "two", "three"] {
        world.tenant(slug).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_windows_are_one_import() {
    let world = World::start().await;
    three(&world).await;
    let before = records(&world).await;
    let files = Files::new();
    // The first ones once more at its end, some windows later.
    let text = rows(0..5_000) + rows(0..300).split_once('\n').unwrap().1;
    let file = files.write("people.csv", text);
    let (told, outcome) = imported(&world, &file, &[]).await;
    assert_eq!(outcome, Ok(()), "{told:?}");
    assert_eq!(told[0], "10600 rows: 10000 created, 600 unchanged, 0 refused");
    assert_eq!(people(&world).await.len(), 3 + 10_000);
    assert_eq!(records(&world).await, before + 10_000, "one record each");

    let (told, outcome) = imported(&world, &file, &["--from-line", "10002"]).await;
    assert_eq!((told[0].as_str(), outcome), ("600 rows: 0 created, 600 unchanged, 0 refused", Ok(())));
    let (told, _) = imported(&world, &file, &["--dry-run"]).await;
    assert_eq!(told[0], "10600 rows: 0 would be created, 10600 unchanged, 0 refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_stopped_says_where_to_go_on() {
    let world = World::start().await;
    three(&world).await;
    let files = Files::new();
    let file = files.write("people.csv", rows(0..6_000));
    let stop = CancellationToken::new();
    let stopping = async {
        eventually("some are there", || async { people(&world).await.len() > 1_000 }).await;
        stop.cancel();
    };
    let command = command(&world, &file, &[]);
    let input = tenancy::cli::client::open(Some(&file)).unwrap();
    let mut out = Vec::new();
    let running = import::import(&command, world.operator_key(), input, &mut out, stop.clone());
    let (outcome, ()) = tokio::join!(running, stopping);
    let error = outcome.unwrap_err().to_string();
    let (_, line) = error.rsplit_once("continue with --from-line ").expect(&error);
    assert!(error.starts_with("interrupted"), "{error}");
    let told = String::from_utf8(out).unwrap();
    let done: u64 = told.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(done + 2, line.parse::<u64>().unwrap().max(2), "the header, and the rows that are told of: {told}");

    let (told, outcome) = imported(&world, &file, &["--from-line", line]).await;
    assert_eq!(outcome, Ok(()), "{told:?}");
    assert_eq!(people(&world).await.len(), 3 + 12_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_told_at_once_and_what_may_is_tried() {
    let world = World::start().await;
    three(&world).await;
    let files = Files::new();
    let file = files.write("people.csv", rows(0..10));
    let (_, outcome) = super::imported_by(&world, "nonsense", &file, &[]).await;
    let error = outcome.unwrap_err();
    assert!(error.contains("API key") && error.contains("--from-line 1"), "{error}");

    world.database.cut().await;
    let (outcome, ()) = tokio::join!(imported(&world, &file, &["--patience", "30s"]), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.database.restore().await;
    });
    assert_eq!(outcome.1, Ok(()), "{:?}", outcome.0);
    assert_eq!(people(&world).await.len(), 3 + 20);
    world.database.cut().await;
    eventually("it is away", || async { !world.running.database.is_reachable() }).await;
    let (_, outcome) = imported(&world, &file, &["--patience", "500ms"]).await;
    assert!(outcome.unwrap_err().starts_with("nothing succeeded for 500ms: "));
    world.database.restore().await;
}

/// Rows without an end, and how many bytes of them were read.
struct Endless {
    read: Arc<AtomicUsize>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const LINE: &[u8] = b"{\"type\": \"team\", \"organization\": \"one\", \"path\": \"a//b\"}\n";
        let begun = self.read.fetch_add(buffer.len(), Ordering::Relaxed);
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = LINE[(begun + at) % LINE.len()];
        }
        Ok(buffer.len())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_read_than_fits_into_memory() {
    let world = World::start().await;
    three(&world).await;
    let read = Arc::new(AtomicUsize::new(0));
    let input = Input { reader: Box::new(Endless { read: Arc::clone(&read) }), bytes: None };
    let command = command(&world, Path::new("-"), &["--patience", "2s"]);
    world.database.cut().await;
    let mut out = Vec::new();
    let outcome = import::import(&command, world.operator_key(), input, &mut out, CancellationToken::new()).await;
    assert!(outcome.unwrap_err().to_string().starts_with("nothing succeeded"));
    // For two seconds nothing came out. Three windows of 4,000 rows of 56 bytes, and what the reader has at once.
    let read = read.load(Ordering::Relaxed);
    assert!((1..2_000_000).contains(&read), "{read} bytes");
}
