//! `--check`: checks the set-up, and prints what to repair.

use std::process::ExitCode;

use http::StatusCode;
use tower::ServiceExt;
use vestibule::{Body, Request, Router, serve};

use crate::{args::Args, project::Project, site};

/// The result of a check, in words: a success; or a problem, and what to do.
type Finding = Result<String, (String, String)>;

/// Prints the result of each check. Fails if a check has failed.
pub async fn run(args: &Args) -> ExitCode {
    let mut has_failed = false;
    let mut report = |finding: Finding| match finding {
        Ok(success) => println!("ok    {success}"),
        Err((problem, remedy)) => {
            has_failed = true;
            println!("FAIL  {problem}\n      -> {remedy}");
        }
    };
    report(address(&args.listen));
    match Project::open(args) {
        Err(error) => report(failed(&error, "see the error; `python3 -m venv` and pip must work")),
        Ok(project) => check_project(project, args, &mut report).await,
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn check_project(mut project: Project, args: &Args, report: &mut impl FnMut(Finding)) {
    if project.is_example
        && let Err(error) = project.prepare()
    {
        return report(failed(&error, "see the error: migrations and static files must work"));
    }
    let Project { python, dir, .. } = &project;
    report(Ok(format!("interpreter {}, from {}", python.path.display(), python.source)));
    let place = dir.display().to_string();
    if let Err(error) = project.probe() {
        let remedy = format!(
            "the module must be importable from {place}, with its requirements installed in that environment"
        );
        return report(failed(&error, &remedy));
    }
    let version = |name| project.setting(name).unwrap_or("none");
    let (python, django) = (version("python"), version("django"));
    report(Ok(format!("{} is importable (Python {python}, Django {django})", project.app)));
    if project.setting("django").is_some() {
        report(static_root(&project));
        report(allowed_hosts(&project, args));
        if project.has_manage() && project.setting("databases") == Some("1") {
            report(migrations(&project));
        }
    }
    report(worker(&project, args).await);
}

fn failed(problem: &(impl ToString + ?Sized), remedy: &str) -> Finding {
    Err((problem.to_string(), remedy.to_owned()))
}

fn address(listen: &str) -> Finding {
    match serve(listen, Router::new()).bind() {
        Ok(_) => Ok(format!("address {listen} is free")),
        Err(error) => failed(
            &error,
            "stop the program that listens there, or choose another address with --listen",
        ),
    }
}

fn static_root(project: &Project) -> Finding {
    if project.setting("staticfiles") != Some("1") {
        return Ok("no static files: django.contrib.staticfiles is not installed".to_owned());
    }
    let url = project.setting("static_url").unwrap_or_default();
    if url.contains("//") {
        return Ok(format!("static files are at {url}, which is not served here"));
    }
    let Some((url, root)) = project.static_files() else {
        let remedy =
            "set STATIC_ROOT to a directory, and STATIC_URL to a path such as \"/static/\"";
        return failed("STATIC_ROOT or STATIC_URL is not set: static files are not served", remedy);
    };
    if root.is_dir() {
        return Ok(format!("static files of {} at {url}", root.display()));
    }
    failed(
        &format!("STATIC_ROOT {} does not exist", root.display()),
        "run `manage.py collectstatic`",
    )
}

fn allowed_hosts(project: &Project, args: &Args) -> Finding {
    let hosts = project.setting("allowed_hosts").unwrap_or_default();
    let is_debug = project.setting("debug") == Some("1");
    let remedy = "add the names by which the site is reached to ALLOWED_HOSTS";
    let Some(host) = args.host() else {
        return match hosts {
            "" => failed("ALLOWED_HOSTS is empty: every request is answered with 400", remedy),
            hosts => Ok(format!("ALLOWED_HOSTS is {hosts}: it must contain your site's name")),
        };
    };
    // With DEBUG, Django takes an empty list for these names.
    let hosts = if hosts.is_empty() && is_debug { ".localhost,127.0.0.1,[::1]" } else { hosts };
    if hosts.split(',').any(|pattern| matches(pattern.trim(), &host)) {
        return Ok(format!("ALLOWED_HOSTS has {host}"));
    }
    failed(&format!("ALLOWED_HOSTS has no {host}: requests are answered with 400"), remedy)
}

/// Returns whether a pattern of `ALLOWED_HOSTS` matches a host.
fn matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix('.') {
        Some(domain) => host == domain || host.ends_with(&pattern),
        None => pattern == "*" || pattern == host,
    }
}

fn migrations(project: &Project) -> Finding {
    match project.manage(&["migrate", "--check", "--verbosity", "0"]) {
        Ok(()) => Ok("all migrations are applied".to_owned()),
        Err(error) => failed(
            &format!("migrations are missing, or the database cannot be reached: {error}"),
            "run `manage.py migrate`",
        ),
    }
}

async fn worker(project: &Project, args: &Args) -> Finding {
    let workers = match site::workers(project, args).workers(1).start() {
        Ok(workers) => workers,
        Err(error) => return failed(&error, "the log above has the output of the worker"),
    };
    let host = args.host().unwrap_or_else(|| "localhost".to_owned());
    let request = Request::get("/").header("host", host).body(Body::empty());
    let answer = match request {
        Ok(request) => workers.clone().oneshot(request).await,
        Err(error) => Err(error.into()),
    };
    let _ = workers.shutdown(std::time::Duration::from_secs(15)).await;
    match answer {
        Ok(response) if response.status() == StatusCode::BAD_REQUEST => failed(
            &format!("a worker starts, and answers / with {}", response.status()),
            "the site does not accept its own address: see ALLOWED_HOSTS, and the log above",
        ),
        Ok(response) if !response.status().is_server_error() => {
            Ok(format!("a worker starts, and answers / with {}", response.status()))
        }
        Ok(response) => failed(
            &format!("a worker starts, and answers / with {}", response.status()),
            "the log above has the traceback, if the project logs django.request",
        ),
        Err(error) => failed(&error, "the log above has the output of the worker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_allowed_hosts_match_as_in_django() {
        for (pattern, host) in
            [("*", "a"), (".b.org", "b.org"), (".b.org", "A.B.org"), ("b.org", "B.ORG")]
        {
            assert!(matches(pattern, host), "{pattern} {host}");
        }
        for (pattern, host) in [("b.org", "a.b.org"), (".b.org", "ab.org"), ("", "a")] {
            assert!(!matches(pattern, host), "{pattern} {host}");
        }
    }
}
