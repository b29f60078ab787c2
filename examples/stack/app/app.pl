#!/usr/bin/perl
# The application: every visit is a row in PostgreSQL and a count in Redis.
use strict;
use warnings;
use IO::Socket::INET;

$| = 1;
$SIG{TERM} = $SIG{INT} = sub { exit 0 };
$SIG{PIPE} = 'IGNORE';

open(my $secret, '<', '/run/secrets/db_password') or die "no secret: $!";
chomp($ENV{PGPASSWORD} = <$secret>);
close($secret);

# The output of a program, without a shell.
sub ask {
    open(my $pipe, '-|', @_) or return 'unknown';
    my $answer = <$pipe> // 'unknown';
    close($pipe);
    chomp $answer;
    return $answer;
}

my $server = IO::Socket::INET->new(LocalPort => 8000, Listen => 64, ReuseAddr => 1)
    or die "cannot listen on port 8000: $!";
print "listening on port 8000\n";
while (1) {
    my $client = $server->accept() or next;
    my ($method, $path) = split(' ', <$client> // '');
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/; }
    my $body;
    if (($path // '') eq '/health') {
        $body = "ok\n";
    } else {
        my $count = ask('redis-cli', '-h', $ENV{REDIS_HOST}, 'incr', 'visits');
        my $rows = ask('psql', '-qtA', '-c',
            'WITH new AS (INSERT INTO visits DEFAULT VALUES RETURNING 1) SELECT count(*) + 1 FROM visits');
        $body = "visits: $count in redis, $rows in postgres\n";
    }
    print $client "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ", length($body), "\r\n\r\n$body";
    close($client);
}
