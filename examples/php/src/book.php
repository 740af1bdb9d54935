<?php
declare(strict_types=1);

/** The entries, one line of JSON for each, and their files, whose names are not those of the upload. */
final class Book
{
    private const SHOWN = 50;

    public function __construct(private string $dir)
    {
        foreach ([$dir, "$dir/files"] as $needed) {
            if (!is_dir($needed) && !@mkdir($needed, 0700) && !is_dir($needed)) {
                throw new RuntimeException("cannot make the directory $needed");
            }
        }
    }

    /** @param ?array{tmp_name: string, name: string} $file as in $_FILES */
    public function add(string $name, string $message, ?array $file): void
    {
        $entry = ['name' => $name, 'message' => $message];
        if ($file !== null) {
            $id = bin2hex(random_bytes(16));
            if (!move_uploaded_file($file['tmp_name'], "$this->dir/files/$id")) {
                throw new RuntimeException('cannot keep the upload');
            }
            chmod("$this->dir/files/$id", 0644); // the front may have another user
            $entry += ['file' => $id, 'file_name' => $file['name']];
        }
        $line = json_encode($entry, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE) . "\n";
        file_put_contents("$this->dir/entries", $line, FILE_APPEND | LOCK_EX);
    }

    /** @return list<array<string, string>> the newest first */
    public function entries(): array
    {
        $lines = is_file("$this->dir/entries") ? file("$this->dir/entries", FILE_IGNORE_NEW_LINES) : [];
        $newest = array_reverse(array_slice($lines, -self::SHOWN));
        return array_map(fn (string $line) => json_decode($line, true), $newest);
    }

    public function nameOfFile(string $id): ?string
    {
        foreach ($this->entries() as $entry) {
            if (($entry['file'] ?? null) === $id) {
                return $entry['file_name'];
            }
        }
        return null;
    }
}
