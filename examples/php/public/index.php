<?php
// The front controller: every path that is no file of /assets comes here.
declare(strict_types=1);

require __DIR__ . '/../src/book.php';

session_name('book');
session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax', 'use_strict_mode' => true]);
$_SESSION['token'] ??= bin2hex(random_bytes(16));

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$book = new Book(getenv('BOOK_DATA') ?: __DIR__ . '/../var');

if ($path === '/' && $_SERVER['REQUEST_METHOD'] === 'GET') {
    $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
    require __DIR__ . '/../src/page.php';
} elseif ($path === '/' && $_SERVER['REQUEST_METHOD'] === 'POST') {
    sign($book);
} elseif (preg_match('#^/files/([0-9a-f]{32})$#', $path, $match)) {
    download($book, $match[1]);
} elseif ($path === '/hello') {
    header('Content-Type: text/plain; charset=utf-8');
    echo "hello\n";
} else {
    fail(404, 'There is no such page.');
}

/** Takes an entry of the form, with a file or without. */
function sign(Book $book): void
{
    if (!hash_equals($_SESSION['token'], (string) ($_POST['token'] ?? ''))) {
        fail(403, 'The form is too old: go back and reload the page.');
        return;
    }
    $name = trim((string) ($_POST['name'] ?? ''));
    $message = trim((string) ($_POST['message'] ?? ''));
    if ($name === '' || $message === '' || strlen($name) > 100 || strlen($message) > 1000) {
        fail(422, 'An entry has a name and a message.');
        return;
    }
    $file = $_FILES['file'] ?? null;
    $error = $file['error'] ?? UPLOAD_ERR_NO_FILE;
    if ($error !== UPLOAD_ERR_OK && $error !== UPLOAD_ERR_NO_FILE) {
        fail(413, 'The file is too large.');
        return;
    }
    $_SESSION['name'] = $name;
    $book->add($name, $message, $error === UPLOAD_ERR_OK ? $file : null);
    header('Location: /', true, 303);
}

/** Has the front send an upload: no process of PHP reads it. */
function download(Book $book, string $id): void
{
    $name = $book->nameOfFile($id);
    if ($name === null) {
        fail(404, 'There is no such file.');
        return;
    }
    header('Content-Type: application/octet-stream');
    header("Content-Disposition: attachment; filename*=UTF-8''" . rawurlencode($name));
    header("X-Accel-Redirect: /private/$id");
}

function fail(int $status, string $why): void
{
    http_response_code($status);
    header('Content-Type: text/plain; charset=utf-8');
    echo $why, "\n";
}
