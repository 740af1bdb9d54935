//! Processes of PHP that end, are given up, or go on after their response.

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt, time::Duration};

use http_body_util::BodyExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::{builder, get, ok, shut_down, site};
use crate::{Body, Error, Request, error::Kind, tests::support::within};

/// Each process ends after three requests, on connections that are used again.
#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn recycled_process_loses_no_request() {
    let dir = site();
    let php = builder(dir.path()).recycle_after(3).start().unwrap();
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let php = php.clone();
        load.spawn(async move {
            let mut pids = HashSet::new();
            for _ in 0..50 {
                let answer = ok(&php, "/pid.php").await;
                pids.insert(answer.split(' ').nth(1).unwrap().to_owned());
            }
            pids
        });
    }
    let pids: HashSet<String> = load.join_all().await.into_iter().flatten().collect();
    assert!(pids.len() >= 200 / 3, "{} processes", pids.len());
    assert_eq!(php.stats().served, 200);
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn killed_idle_process_loses_no_request() {
    let dir = site();
    let php = builder(dir.path()).children(1).start().unwrap();
    let mut killed = HashSet::new();
    for _ in 0..5 {
        let answer = ok(&php, "/pid.php").await;
        let pid: i32 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(killed.insert(pid));
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        within(async {
            // Its sockets are closed before it is a zombie.
            let stat = || fs::read_to_string(format!("/proc/{pid}/stat"));
            while stat().is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    shut_down(php).await;
}

/// A script that ends its process the first time.
#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn request_whose_process_dies_is_sent_once_more_if_idempotent() {
    let dir = site();
    let counter = dir.path().join("sessions/runs").display().to_string();
    let die = format!(
        "<?php $n = (int) @file_get_contents('{counter}'); file_put_contents('{counter}', $n + 1);
         if ($n < (int) $_GET['deaths']) {{ posix_kill(getmypid(), 9); }} echo 'run ', $n + 1;"
    );
    fs::write(dir.path().join("one/die.php"), die).unwrap();
    let php = builder(dir.path()).start().unwrap();
    for (method, deaths, expected) in [
        ("GET", 1, Ok("run 2")),
        ("GET", 2, Err("2")),
        ("POST", 1, Err("1")),
        ("PUT", 1, Ok("run 2")),
    ] {
        let _ = fs::remove_file(&counter);
        ok(&php, "/a").await; // leaves an idle connection
        let request = Request::builder().method(method).uri(format!("/die.php?deaths={deaths}"));
        let request = request.header("host", "a").body(Body::from("body")).unwrap();
        let response = within(php.clone().oneshot(request)).await;
        match expected {
            Ok(text) => {
                let body = within(response.unwrap().into_body().collect()).await.unwrap();
                assert_eq!(body.to_bytes(), text, "{method}");
            }
            Err(runs) => {
                let error = response.unwrap_err();
                assert_eq!(Error::find(&*error).unwrap().kind(), Kind::BadGateway, "{method}");
                assert_eq!(fs::read_to_string(&counter).unwrap(), runs, "{method}");
            }
        }
    }
    shut_down(php).await;
}

/// The only other process serves the requests, since that of the first one is not idle after its response.
#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn script_that_goes_on_after_its_response_delays_no_request() {
    let dir = site();
    let release = dir.path().join("release");
    let finish = format!(
        "<?php echo 'early'; fastcgi_finish_request();
         while (!file_exists('{}')) {{ usleep (1000); clearstatcache(); }}",
        release.display()
    );
    fs::write(dir.path().join("one/finish.php"), finish).unwrap();
    let php = builder(dir.path()).start().unwrap();
    assert_eq!(ok(&php, "/finish.php").await, "200 early");
    for _ in 0..50 {
        assert_eq!(ok(&php, "/a").await, "200 front /a");
    }
    fs::write(release, "").unwrap();
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn output_after_the_end_of_a_response_reaches_no_other_request() {
    let dir = site();
    let late =
        "<?php echo 'early'; fastcgi_finish_request(); echo str_repeat('late', 5000); flush();";
    fs::write(dir.path().join("one/late.php"), late).unwrap();
    let php = builder(dir.path()).start().unwrap();
    let load: JoinSet<()> = (0..4)
        .map(|_| {
            let php = php.clone();
            async move {
                for _ in 0..50 {
                    assert_eq!(ok(&php, "/late.php").await, "200 early");
                    assert_eq!(ok(&php, "/a").await, "200 front /a");
                }
            }
        })
        .collect();
    load.join_all().await;
    shut_down(php).await;
}

/// The script of a request that was given up still runs in one of two processes.
#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn request_behind_an_abandoned_script_is_served_under_load() {
    let dir = site();
    let (begun, release) = (dir.path().join("begun"), dir.path().join("release"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let wait = format!(
        "<?php touch('{}'); while (!file_exists('{}')) {{ usleep (1000); clearstatcache(); }}",
        begun.display(),
        release.display()
    );
    fs::write(dir.path().join("one/wait.php"), wait).unwrap();
    let php = builder(dir.path()).start().unwrap();
    let abandoned = tokio::spawn({
        let php = php.clone();
        async move { get(&php, "/wait.php").await.map_err(drop) }
    });
    within(async {
        while !begun.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    // One of them has the idle connection to the other process whenever it wants it.
    for _ in 0..20 {
        let load: JoinSet<()> = (0..4)
            .map(|_| {
                let php = php.clone();
                async move { assert_eq!(ok(&php, "/a").await, "200 front /a") }
            })
            .collect();
        load.join_all().await;
    }
    fs::write(release, "").unwrap();
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn killed_php_fpm_is_started_again_and_requests_wait_for_it() {
    let dir = site();
    let php = builder(dir.path()).start().unwrap();
    for exits in 0..5 {
        let answer = ok(&php, "/pid.php").await;
        let master = answer.rsplit(' ').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(master).unwrap(), Signal::KILL).unwrap();
        within(async {
            while php.stats().unexpected_exits == exits {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(ok(&php, "/a").await, "200 front /a");
        assert_eq!(php.instances(), 1, "nothing is left of those that have ended");
    }
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn request_past_its_timeout_is_answered_and_its_process_replaced() {
    let dir = site();
    let pid_file = dir.path().join("sessions/pid");
    let code = format!(
        "<?php file_put_contents('{0}.new', getmypid()); rename('{0}.new', '{0}'); for (;;);",
        pid_file.display()
    );
    fs::write(dir.path().join("one/stuck.php"), code).unwrap();
    let builder = builder(dir.path()).children(1).request_timeout(Duration::from_secs(1));
    let php = builder.start().unwrap();
    let error = get(&php, "/stuck.php").await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), Kind::Timeout);
    let stuck = fs::read_to_string(pid_file).unwrap();
    // php-fpm kills the process, whose successor accepts the next request.
    within(async {
        while fs::exists(format!("/proc/{stuck}")).unwrap() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = ok(&php, "/pid.php").await;
    assert_ne!(answer.split(' ').nth(1).unwrap(), stuck);
    shut_down(php).await;
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn request_past_its_queue_timeout_is_not_run() {
    let dir = site();
    let builder = builder(dir.path()).children(1).queue_timeout(Duration::from_millis(100));
    let php = builder.ini("output_buffering", "0").start().unwrap();
    let request = Request::get("/sleep.php").header("host", "a").body(Body::empty()).unwrap();
    let running = within(php.clone().oneshot(request)).await.unwrap();
    let error = get(&php, "/session").await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), Kind::Overloaded);
    assert_eq!(fs::read_dir(dir.path().join("sessions")).unwrap().count(), 0, "it was not run");
    drop(running);
    php.close();
}

#[tokio::test]
#[cfg_attr(not(peer_php), ignore = "apt-get install php-fpm")]
async fn requests_are_answered_by_a_varying_number_of_processes() {
    let dir = site();
    let php = builder(dir.path()).children(4).spare(1).start().unwrap();
    let mut load = JoinSet::new();
    for _ in 0..8 {
        let php = php.clone();
        load.spawn(async move {
            for _ in 0..20 {
                assert!(ok(&php, "/pid.php").await.starts_with("200 "));
            }
        });
    }
    load.join_all().await;
    assert_eq!(php.stats().served, 160);
    shut_down(php).await;
}
