# Turns copied Debian files in $out into a Nix output: ELF files, symlinks, scripts and
# texts point at the store paths of the dependencies. Uses what perl-base has, no more.
use strict;
use warnings;

my $out     = $ENV{out};
my @where   = ($out, split ' ', $ENV{closure});
my $is_libc = -e glob_one("$out/lib/*/libc.so.6");
my ($triplet) = map { m{lib/([^/]+)/libc\.so\.6$} } grep { defined } map { glob_one("$_/lib/*/libc.so.6") } @where;
$triplet //= 'none';

sub glob_one { return (glob $_[0])[0] // '/nonexistent' }

# The store path of what Debian has at this absolute path, if a dependency has it.
my %found;
sub find {
    my ($path) = @_;
    return $found{$path} if exists $found{$path};
    (my $rel = $path) =~ s{^/+(?:usr/+)?}{};
    my ($at) = grep { -e "$_/$rel" || -l "$_/$rel" } @where;
    return $found{$path} = $at && $rel ne '' ? "$at/$rel" : undef;
}

sub normal {    # an absolute path without "." and ".."
    my @parts;
    for (split m{/}, $_[0]) {
        if    ($_ eq '..') { pop @parts }
        elsif ($_ ne '' && $_ ne '.') { push @parts, $_ }
    }
    return '/' . join '/', @parts;
}

sub fix_link {
    my ($path) = @_;
    my $target = readlink $path;
    return if $target =~ m{^/nix/store/};
    my $dir = substr $path, length $out;
    $dir =~ s{/[^/]*$}{};
    my $absolute = normal($target =~ m{^/} ? $target : "$dir/$target");
    return if $target !~ m{^/} && (-e "$out$absolute" || -l "$out$absolute");
    my $new = find($absolute) or return;
    unlink($path) && symlink($new, $path) or die "$path: $!";
}

sub fix_elf {
    my ($path) = @_;
    return if $is_libc;
    my @needed = split /\n/, qx(patchelf --print-needed '$path' 2>/dev/null);
    my ($interpreter) = split /\n/, qx(patchelf --print-interpreter '$path' 2>/dev/null);
    my @set;
    if ($interpreter && $interpreter !~ m{^/nix/store/}) {
        (my $name = $interpreter) =~ s{.*/}{};
        my $loader = find("/lib/$triplet/$name") || find($interpreter);
        push @set, '--set-interpreter', $loader if $loader;
    }
    if (@needed) {
        (my $own = $path) =~ s{/[^/]*$}{};
        my ($old) = split /\n/, qx(patchelf --print-rpath '$path' 2>/dev/null);
        my @search = ((map { s{\$\{?ORIGIN\}?}{substr $own, length $out}er } split /:/, $old // ''), "/lib/$triplet", '/lib');
        my (@dirs, %seen);
        for my $name (@needed) {
            my ($lib) = -e "$own/$name" ? "$own/$name" : grep { defined } map { find(normal("$_/$name")) } @search;
            next unless $lib;
            $lib =~ s{/[^/]*$}{};
            push @dirs, $lib unless $seen{$lib}++;
        }
        push @set, '--set-rpath', join ':', @dirs if @dirs;
    }
    return unless @set;
    system('patchelf', @set, $path) == 0 or warn "patchelf left $path as it was\n";
}

my $debian_path = qr{(?<![\w.\}\$/)-])/(?:usr/)?(?:s?bin|lib(?:64|exec|32)?|share|include)/[\w.+\@%=~/-]*[\w+]};

sub fix_text {
    my ($path, $text) = @_;
    my $new = $text =~ s{\A#! ?(?:/usr)?/bin/env(?: -S)? ([\w.+-]+)}{my $p = find("/bin/$1"); $p ? "#!$p" : $&}er;
    $new =~ s{$debian_path}{find($&) // $&}ge;
    $new =~ s{^((?:exec_)?prefix=)/usr$}{$1$out}mg if $path =~ /\.pc$/;
    return if $new eq $text;
    open my $file, '>:raw', $path or die "$path: $!";
    print $file $new or die "$path: $!";
    close $file or die "$path: $!";
}

# A program that looks for its files below /usr by name is started with its own places.
sub wrap {
    my ($program, %set) = @_;
    my $path = "$out/bin/$program";
    my $shell = find('/bin/sh');
    return unless $shell && (-e $path || -l $path);
    my $hidden = "$out/bin/.$program-wrapped";
    rename $path, $hidden or die "$path: $!";
    open my $file, '>', $path or die "$path: $!";
    print $file "#!$shell\n", (map { "export $_=\"$set{$_}\"\n" } sort keys %set), "exec -a \"\$0\" \"$hidden\" \"\$@\"\n";
    close $file or die "$path: $!";
    chmod 0755, $path;
}

sub walk {
    my ($dir) = @_;
    opendir my $handle, $dir or die "$dir: $!";
    for my $name (sort grep { !/^\.\.?$/ } readdir $handle) {
        my $path = "$dir/$name";
        if    (-l $path) { fix_link($path); next }
        elsif (-d _)     { walk($path);     next }
        elsif (!-f _)    { unlink $path;    next }
        chmod((-x _ ? 0755 : 0644), $path);
        open my $file, '<:raw', $path or die "$path: $!";
        read $file, my $text, 8192;
        if ($text =~ /^\x7fELF/) { close $file; fix_elf($path) }
        elsif ($text !~ /\0/ && -s $path < 4 << 20) {
            local $/;
            $text .= <$file> // '';
            close $file;
            fix_text($path, $text);
        }
    }
}

walk($out);
if ($ENV{pname} eq 'perl') {
    my @lib = grep { -d } glob("$out/lib/$triplet/perl-base $out/lib/$triplet/perl/5.* $out/share/perl/5.*");
    wrap('perl', PERL5LIB => join(':', @lib) . '${PERL5LIB:+:$PERL5LIB}');
}
wrap('git', GIT_EXEC_PATH => "$out/lib/git-core", GIT_TEMPLATE_DIR => "$out/share/git-core/templates") if $ENV{pname} eq 'git';
wrap('vim', VIM => "$out/share/vim") if $ENV{pname} eq 'vim';
