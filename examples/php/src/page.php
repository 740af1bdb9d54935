<?php
/** @var Book $book */
$text = fn (string $value): string => htmlspecialchars($value, ENT_QUOTES | ENT_SUBSTITUTE);
?><!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Guest book</title>
<link rel="stylesheet" href="/assets/style.css">
<h1>Guest book</h1>
<p id="visits">You have been here <?= $_SESSION['visits'] ?> times.</p>
<form method="post" enctype="multipart/form-data">
  <input type="hidden" name="token" value="<?= $_SESSION['token'] ?>">
  <label>Name <input name="name" value="<?= $text($_SESSION['name'] ?? '') ?>" required></label>
  <label>Message <input name="message" required></label>
  <label>File <input name="file" type="file"></label>
  <button>Sign</button>
</form>
<ul>
<?php foreach ($book->entries() as $entry): ?>
  <li><b><?= $text($entry['name']) ?></b>: <?= $text($entry['message']) ?>
<?php if (isset($entry['file'])): ?>
    <a href="/files/<?= $entry['file'] ?>"><?= $text($entry['file_name']) ?></a>
<?php endif ?>
  </li>
<?php endforeach ?>
</ul>
