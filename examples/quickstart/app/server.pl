#!/usr/bin/perl
# A tiny HTTP server: / greets, /visit counts in the volume, /health answers "ok".
use strict;
use warnings;
use IO::Socket::INET;

$| = 1;
$SIG{TERM} = $SIG{INT} = sub { print "stopping\n"; exit 0 };
$SIG{PIPE} = 'IGNORE';

sub slurp {
    my ($path) = @_;
    open(my $file, '<', $path) or return '';
    my $text = join('', <$file>);
    chomp $text;
    return $text;
}

sub count {
    my $visits = (slurp('/data/visits') || 0) + 1;
    open(my $file, '>', '/data/visits.new') or die "cannot count: $!";
    print $file "$visits\n";
    close($file);
    rename('/data/visits.new', '/data/visits');
    return $visits;
}

my $server = IO::Socket::INET->new(LocalPort => 80, Listen => 64, ReuseAddr => 1)
    or die "cannot listen on port 80: $!";
print "listening on port 80\n";
while (1) {
    my $client = $server->accept() or next;
    my ($method, $path) = split(' ', <$client> // '');
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/; }
    my ($status, $body) = ('200 OK', '');
    $path //= '';
    if    ($path eq '/health') { $body = "ok\n" }
    elsif ($path eq '/visit')  { my $n = count(); $body = "visit $n\n"; print "visit $n from ", $client->peerhost, "\n" }
    elsif ($path eq '/')       { $body = slurp('/data/greeting') . ', visited ' . (slurp('/data/visits') || 0) . " times\n" }
    else                       { $status = '404 Not Found'; $body = "no such page\n" }
    print $client "HTTP/1.0 $status\r\nContent-Type: text/plain\r\nContent-Length: ", length($body), "\r\n\r\n$body";
    close($client);
}
